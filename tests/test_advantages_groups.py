"""Estimators that compare a response with the other responses to its prompt."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import BatchError, Trajectories
from rlhf_lab_advantages import GRPO, RLOO, GroupMean

NAN = float("nan")
few = settings(derandomize=True, max_examples=30, deadline=None, database=None)
ESTIMATORS: list[AdvantageEstimator] = [RLOO(), GRPO(), GRPO(ddof=0, eps=0.5), GroupMean()]
sixteenths = st.integers(-32, 32).map(lambda k: k / 16)


def responses(scores: list[float], groups: list[int], dtype: torch.dtype = torch.float64) -> Trajectories:
    """One response of two tokens each: the score is paid at the second one, behind a hole."""
    rewards = torch.tensor([[0, NAN, score] for score in scores], dtype=dtype)
    valid = ~rewards.isnan()
    ends = torch.zeros_like(valid)
    ends[:, 2] = True
    return Trajectories(rewards, ends, torch.zeros_like(ends), valid, group_ids=torch.tensor(groups))


def of_rows(estimator: AdvantageEstimator, batch: Trajectories) -> list[float]:
    """Return the advantage of each row, after checking that it stands on every valid step and nowhere else."""
    answer = estimator(batch)
    assert answer.returns is None
    assert torch.equal(answer.advantages[..., 0], answer.advantages[..., 2])
    assert not answer.advantages[..., 1].any()
    return answer.advantages[..., 0].flatten().tolist()


def due(estimator: AdvantageEstimator, scores: list[float], groups: list[int]) -> list[float]:
    """The definitions in plain Python, response by response."""
    out = []
    for i, group in enumerate(groups):
        others = [s for j, s in enumerate(scores) if groups[j] == group and j != i]
        everyone = [*others, scores[i]]
        mean = sum(everyone) / len(everyone)
        if not others or isinstance(estimator, RLOO):
            out.append(scores[i] - sum(others) / len(others) if others else 0.0)
        elif isinstance(estimator, GRPO):
            std = math.sqrt(sum((s - mean) ** 2 for s in everyone) / (len(everyone) - estimator.ddof))
            out.append((scores[i] - mean) / (std + estimator.eps))
        else:
            out.append(scores[i] - mean)
    return out


rows = st.lists(st.tuples(sixteenths, st.integers(-2, 1)), min_size=1, max_size=9)


@few
@given(rows)
def test_group_estimators_follow_their_definitions_on_interleaved_groups(rows: list[tuple[float, int]]) -> None:
    scores, groups = [score for score, _ in rows], [group for _, group in rows]
    for estimator in ESTIMATORS:
        assert of_rows(estimator, responses(scores, groups)) == pytest.approx(due(estimator, scores, groups), abs=1e-12)


@few
@given(rows, rows)
def test_equal_ids_of_different_runs_are_different_prompts(
    first: list[tuple[float, int]], second: list[tuple[float, int]]
) -> None:
    size = min(len(first), len(second))
    runs = [responses([s for s, _ in run[:size]], [g for _, g in run[:size]]) for run in (first, second)]
    stacked = Trajectories(
        *(
            torch.stack([getattr(run, name) for run in runs])
            for name in ("rewards", "terminated", "truncated", "valid")
        ),
        group_ids=torch.stack([run.group_ids for run in runs if run.group_ids is not None]),
    )
    for estimator in ESTIMATORS:
        assert of_rows(estimator, stacked) == [x for run in runs for x in of_rows(estimator, run)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_more_runs_than_prompts_do_not_mix(estimator: AdvantageEstimator) -> None:
    # In each of four runs, every one of two responses is alone with its prompt.
    shape = (4, 2, 1)
    ends = torch.ones(shape, dtype=torch.bool)
    rewards = torch.arange(8.0).reshape(shape)
    batch = Trajectories(rewards, ends, ~ends, ends, group_ids=torch.tensor([[0, 1]] * 4))
    assert not estimator(batch).advantages.any()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # mean 1/4, the others of the first have mean 0 and those of the rest 1/3
        (RLOO(), [1, -1 / 3, -1 / 3, -1 / 3]),
        (GroupMean(), [0.75, -0.25, -0.25, -0.25]),
        # variance (9 + 1 + 1 + 1)/16/3 = 1/4, so std = 1/2
        (GRPO(), [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]),
        # population variance 3/16
        (GRPO(ddof=0, eps=0), [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]),
    ],
)
def test_one_success_of_four_by_hand(estimator: AdvantageEstimator, expected: list[float]) -> None:
    assert of_rows(estimator, responses([1, 0, 0, 0], [7, 7, 7, 7])) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, GRPO(eps=0), GRPO(ddof=0, eps=0)])
def test_a_response_alone_and_equal_scores_get_exactly_zero(estimator: AdvantageEstimator) -> None:
    assert of_rows(estimator, responses([0.1, 0.1, 0.7, 0.1], [1, 1, 2, 1])) == [0, 0, 0, 0]


def test_scores_of_little_spread_on_a_large_offset_keep_their_differences() -> None:
    # 1000 and 1000 + 2^-10 in float32: the difference is exact, and ± half of it the mean-only advantage.
    batch = responses([1000, 1000 + 2**-10], [0, 0], dtype=torch.float32)
    assert of_rows(GroupMean(), batch) == [-(2**-11), 2**-11]


def test_a_row_without_a_valid_step_is_no_response() -> None:
    full = responses([1, 0, 5], [0, 0, 0])
    valid = full.valid.clone()
    valid[2] = False
    batch = Trajectories(full.rewards, full.terminated & valid, full.truncated, valid, group_ids=full.group_ids)
    assert RLOO()(batch).advantages.tolist() == [[1, 0, 1], [-1, 0, -1], [0, 0, 0]]


def test_a_score_is_everything_that_a_row_was_paid_on_valid_steps() -> None:
    # Row 0 was paid 1 + 2 = 3 (9 is padding), row 1 nothing: ± 3/2.
    rewards = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    no = torch.zeros_like(valid)
    batch = Trajectories(rewards, no, no, valid, group_ids=torch.tensor([0, 0]))
    assert GroupMean()(batch).advantages.tolist() == [[1.5, 1.5, 0], [-1.5, -1.5, -1.5]]


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_several_episodes_in_a_row_are_refused(estimator: AdvantageEstimator, flag: str) -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    ends = none.clone()
    ends[1, 1] = True
    flags = {"terminated": none, "truncated": none} | {flag: ends}
    batch = Trajectories(torch.zeros(2, 3), **flags, valid=~none, group_ids=torch.tensor([0, 0]))
    with pytest.raises(BatchError, match=r"row \[1\] holds several episodes \(one ends at step 1"):
        estimator(batch)


def test_missing_group_ids_are_named() -> None:
    full = responses([1], [0])
    with pytest.raises(BatchError, match="group_ids is None"):
        RLOO()(Trajectories(full.rewards, full.terminated, full.truncated, full.valid))


def test_leave_one_out_gives_each_score_its_full_weight() -> None:
    # The own score is not in the baseline: adding 1 to s_0 adds exactly 1 to A_0, and takes 1/2 from the others.
    before = Tensor(of_rows(RLOO(), responses([1, 2, 4], [0, 0, 0])))
    after = Tensor(of_rows(RLOO(), responses([2, 2, 4], [0, 0, 0])))
    assert (after - before).tolist() == [1, -0.5, -0.5]
