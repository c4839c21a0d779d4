"""Minibatches: every unit once per epoch, nothing cut that belongs together, each run shuffled for itself."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.minibatches import minibatches
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Trajectories

RUNS, ROWS, STEPS = 3, 6, 4


def numbered(runs: int = RUNS, rows: int = ROWS, steps: int = STEPS) -> Tensor:
    """Every step of every run has its own number."""
    return torch.arange(float(runs * rows * steps)).view(runs, rows, steps)


def collected(*, stepwise: bool = True, group_ids: Tensor | None = None, **size: int) -> Samples:
    x = numbered(**size)
    none = torch.zeros_like(x, dtype=torch.bool)
    optional = {"values": x + 0.25, "baseline_scores": x[..., 0], "group_ids": group_ids}
    trajectories = Trajectories(x, none, none, ~none, **optional)
    inputs = (
        {"observations": torch.stack([x, -x], dim=-1), "actions": x.long()} if stepwise else {"prompts": x[..., :2]}
    )
    return Samples(trajectories, inputs, stepwise)


def cut(samples: Samples, scopes: Set[str], count: int, epochs: int = 1, **options: Any) -> list[Tensor]:
    """Return the numbers of each minibatch ``[runs, units, t]``, having checked that all tensors moved alike."""
    x = samples.trajectories.rewards
    streams = options.get("streams", Streams(range(x.shape[0])))
    found = []
    for part, steps in minibatches(
        samples, {"advantages": x + 0.5}, scopes=scopes, count=count, epochs=epochs, streams=streams,
        first=options.get("first", 0),
    ):  # fmt: skip
        rewards = part.trajectories.rewards
        assert torch.equal(steps["advantages"], rewards + 0.5)
        assert torch.equal(part.trajectories.values, rewards + 0.25)  # type: ignore[arg-type]
        if "actions" in part.inputs:
            assert torch.equal(part.inputs["actions"], rewards.long())
            assert torch.equal(part.inputs["observations"], torch.stack([rewards, -rewards], dim=-1))
        found.append(rewards)
    return found


def rows_of(parts: list[Tensor]) -> list[list[tuple[float, ...]]]:
    """Per run the rows of all minibatches, in order."""
    return [[tuple(row.tolist()) for part in parts for row in part[run]] for run in range(parts[0].shape[0])]


@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize(("scopes", "shape"), [({"step"}, (24, 1)), ({"step", "episode"}, (6, 4)), ({"batch"}, (6, 4))])
def test_every_unit_comes_once_per_epoch(scopes: Set[str], shape: tuple[int, int], count: int) -> None:
    parts = cut(collected(), scopes, count, epochs=2)
    assert len(parts) == 2 * count
    for epoch in (parts[:count], parts[count:]):
        for run, rows in enumerate(rows_of(epoch)):
            due = numbered()[run].reshape(shape)
            assert sorted(rows) == [tuple(row.tolist()) for row in due]


def test_sizes_differ_by_at_most_one() -> None:
    assert sorted(part.shape[1] for part in cut(collected(), {"step"}, 5)) == [4, 5, 5, 5, 5]


def ragged(lengths: list[list[int]], steps: int = STEPS) -> Samples:
    """Rows of the given numbers of valid steps, padded to ``steps``; step t of row i of run r is 100 r + 10 i + t."""
    length = torch.tensor(lengths)
    runs, rows = length.shape
    run, row, t = torch.arange(runs)[:, None, None], torch.arange(rows)[:, None], torch.arange(steps)
    valid = t < length[..., None]
    none = torch.zeros_like(valid)
    return Samples(Trajectories((100 * run + 10 * row + t).float(), none, none, valid), {"actions": valid.long()})


def counted(samples: Samples, count: int) -> list[list[list[float]]]:
    """The steps that count, by minibatch and run."""
    valid = samples.trajectories.valid
    parts = minibatches(
        samples, {"valid": valid, "ends": valid}, scopes={"step"}, count=count, epochs=1,
        streams=Streams(range(len(valid))), first=0,
    )  # fmt: skip
    return [
        [x[mask].tolist() for x, mask in zip(part.trajectories.rewards, steps["valid"], strict=True)]
        for part, steps in parts
    ]


def test_only_valid_steps_are_cut_and_each_comes_once() -> None:
    parts = counted(ragged([[4, 1], [2, 4]]), 2)
    assert sorted(parts[0][0] + parts[1][0]) == [0, 1, 2, 3, 10]
    assert sorted(parts[0][1] + parts[1][1]) == [100, 101, 110, 111, 112, 113]


def test_a_run_with_fewer_steps_has_smaller_minibatches_not_fewer() -> None:
    parts = counted(ragged([[4, 4], [1, 1]]), 2)
    assert [[len(run) for run in part] for part in parts] == [[4, 1], [4, 1]]


def test_minibatches_do_not_depend_on_how_long_other_runs_pad_the_rows() -> None:
    assert counted(ragged([[2, 3]], steps=3), 2) == counted(ragged([[2, 3]], steps=7), 2)
    assert [part[0] for part in counted(ragged([[2, 3], [7, 7]], steps=7), 2)] == [
        part[0] for part in counted(ragged([[2, 3]], steps=3), 2)
    ]


def test_a_run_with_fewer_steps_than_minibatches_has_some_without_a_step() -> None:
    # run 0 has 8 steps, run 1 has 2: cut at 8 i // 3 and 2 i // 3
    parts = counted(ragged([[4, 4], [1, 1]]), 3)
    assert [[len(run) for run in part] for part in parts] == [[2, 0], [3, 1], [3, 1]]


def test_steps_are_the_units_only_where_samples_are_stepwise() -> None:
    assert [part.shape for part in cut(collected(stepwise=False), {"step"}, 2)] == [(RUNS, 3, STEPS)] * 2


def test_epochs_are_shuffled_anew() -> None:
    first, second = cut(collected(), {"step"}, 1, epochs=2)
    assert not torch.equal(first, second)


def test_epochs_are_numbered_through_so_that_iterations_differ_and_resume() -> None:
    both = cut(collected(), {"step"}, 2, epochs=2)
    later = cut(collected(), {"step"}, 2, epochs=1, first=1)
    assert all(torch.equal(a, b) for a, b in zip(both[2:], later, strict=True))


def test_runs_are_shuffled_separately() -> None:
    parts = cut(collected(), {"step"}, 1)
    orders = [(part - numbered()[run].amin()).flatten().tolist() for run, part in enumerate(parts[0])]
    assert len({tuple(order) for order in orders}) == RUNS


def test_a_run_is_shuffled_the_same_whatever_runs_beside_it() -> None:
    samples = collected()
    alone = Samples(
        Trajectories(
            *(getattr(samples.trajectories, n)[1:2] for n in ("rewards", "terminated", "truncated", "valid", "values"))
        ),
        {name: x[1:2] for name, x in samples.inputs.items()},
    )
    together = cut(samples, {"step"}, 3, streams=Streams((7, 8, 9)))
    for one, all_of_them in zip(cut(alone, {"step"}, 3, streams=Streams((8,))), together, strict=True):
        assert torch.equal(one[0], all_of_them[1])


def test_baseline_scores_go_with_their_rows() -> None:
    for part, _ in minibatches(collected(), {}, scopes={"step"}, count=2, epochs=1, streams=Streams(range(3)), first=0):
        due = (part.trajectories.rewards[..., 0] // STEPS) * STEPS  # the number of the row's first step
        assert torch.equal(part.trajectories.baseline_scores, due)  # type: ignore[arg-type]


# groups by run, not in order: run 0 has rows {0, 2}, {1, 5}, {3, 4}
GROUPS = torch.tensor([[7, 1, 7, 3, 3, 1], [0, 0, 1, 1, 2, 2], [9, 8, 7, 7, 8, 9]])


def test_groups_stay_whole() -> None:
    samples = collected(group_ids=GROUPS)
    parts = [
        part.trajectories.group_ids
        for part, _ in minibatches(samples, {}, scopes={"group"}, count=3, epochs=1, streams=Streams(range(3)), first=0)
    ]
    assert all(bool((ids == ids[:, :1]).all()) and ids.shape == (RUNS, 2) for ids in parts if ids is not None)
    for run in range(RUNS):
        assert sorted(int(ids[run, 0]) for ids in parts if ids is not None) == sorted(set(GROUPS[run].tolist()))


def test_every_row_of_a_group_comes_once() -> None:
    for run, rows in enumerate(rows_of(cut(collected(group_ids=GROUPS), {"group", "step"}, 2))):
        assert sorted(rows) == [tuple(row.tolist()) for row in numbered()[run]]


@pytest.mark.parametrize(
    "ids",
    [
        [[0, 0, 0, 1, 1, 2]] * 3,
        [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2]],  # a group of two sizes' width in one run alone
        [[0, 0, 0, 0, 1, 1]] * 3,
        [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]],
    ],
)
def test_groups_of_several_sizes_are_refused(ids: list[list[int]]) -> None:
    with pytest.raises(LabError, match=r"groups of one size; use minibatches: 1"):
        cut(collected(group_ids=torch.tensor(ids)), {"group"}, 2)


def test_a_single_group_is_one_unit() -> None:
    parts = cut(collected(group_ids=torch.zeros(RUNS, ROWS, dtype=torch.int64)), {"group"}, 1)
    assert parts[0].shape == (RUNS, ROWS, STEPS)


def test_groups_need_their_numbers() -> None:
    with pytest.raises(LabError, match="scope 'group' needs group_ids"):
        cut(collected(), {"group"}, 2)


@pytest.mark.parametrize(("scopes", "units"), [({"episode"}, 6), ({"group"}, 3)])
def test_more_minibatches_than_units_are_refused(scopes: Set[str], units: int) -> None:
    with pytest.raises(LabError, match=f"25 minibatches cannot be cut from {units} units; collect more or use fewer"):
        cut(collected(group_ids=GROUPS), scopes, 25)


def test_select_takes_rows_of_each_run() -> None:
    index = torch.tensor([[5, 0], [1, 1], [2, 3]])
    part = collected(group_ids=GROUPS).select(index)
    due = torch.stack([numbered()[run, index[run]] for run in range(RUNS)])
    assert torch.equal(part.trajectories.rewards, due)
    assert torch.equal(part.inputs["observations"], torch.stack([due, -due], dim=-1))
    assert part.trajectories.group_ids.tolist() == [[1, 7], [0, 0], [7, 7]]  # type: ignore[union-attr]
    assert part.trajectories.ref_log_probs is None


def test_selecting_leaves_the_samples_alone() -> None:
    samples = collected()
    samples.select(torch.zeros(RUNS, 1, dtype=torch.int64)).as_steps()
    assert torch.equal(samples.trajectories.rewards, numbered())


def test_as_steps_makes_rows_of_length_one() -> None:
    steps = collected(group_ids=GROUPS).as_steps()
    assert torch.equal(steps.trajectories.rewards, numbered().reshape(RUNS, ROWS * STEPS, 1))
    assert steps.inputs["observations"].shape == (RUNS, ROWS * STEPS, 1, 2)
    assert steps.trajectories.group_ids[0].tolist() == [7] * 4 + [1] * 4 + [7] * 4 + [3] * 8 + [1] * 4  # type: ignore[index]
