"""Returns and lengths of the episodes that end in a batch, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lab.training.episodes import EpisodeMeter
from rlhf_lab.types import Trajectories

NAN = float("nan")


def batch(*runs: list[tuple[list[float], str]]) -> Trajectories:
    """Runs of rows of rewards and flags: . goes on, T terminated, C cut, x invalid."""
    rewards = torch.tensor([[row for row, _ in run] for run in runs], dtype=torch.float32)
    flags = [torch.tensor([[[c in s for c in text] for _, text in run] for run in runs]) for s in ("T", "C", ".TC")]
    return Trajectories(rewards, *flags)


def test_returns_and_lengths_are_averaged_over_the_episodes_that_end() -> None:
    # run 0: 1 + 2 in two steps, 3 in one, 4 goes on; run 1: 10 + 20 + 30 + 40 in four steps
    meter = EpisodeMeter(2)
    found = meter.add(batch([([1, 2, 3, 4], ".TC.")], [([10, 20, 30, 40], "...C")]))
    assert found["episode_return"].tolist() == [(3 + 3) / 2, 100]
    assert found["episode_length"].tolist() == [1.5, 4]
    assert (meter.steps.tolist(), meter.episodes.tolist(), meter.scores.tolist()) == ([4, 4], [2, 1], [6, 100])


def test_rows_of_a_run_are_averaged() -> None:
    found = EpisodeMeter(1).add(batch([([1, 2], ".T"), ([5, 6], ".T")]))
    assert found["episode_return"].tolist() == [(3 + 11) / 2]


def test_where_no_episode_ends_the_means_are_nan() -> None:
    meter = EpisodeMeter(2)
    found = meter.add(batch([([1, 2], "..")], [([1, 2], ".T")]))
    assert math.isnan(found["episode_return"][0]) and math.isnan(found["episode_length"][0])
    assert found["episode_return"][1] == 3 and meter.episodes.tolist() == [0, 1]


def test_an_episode_may_reach_over_several_batches() -> None:
    # 1 + 2 | 3 + 4 ends: 10 in four steps; then 5 alone
    meter = EpisodeMeter(1)
    meter.add(batch([([1, 2], "..")]))
    assert meter.add(batch([([3, 4], ".T")]))["episode_return"].tolist() == [10]
    found = meter.add(batch([([5, 6], "T.")]))
    assert (found["episode_return"].item(), found["episode_length"].item()) == (5, 1)


def test_rows_continue_separately() -> None:
    meter = EpisodeMeter(1)
    meter.add(batch([([1], "."), ([10], ".")]))
    assert meter.add(batch([([2], "T"), ([20], ".")]))["episode_return"].tolist() == [3]
    assert meter.add(batch([([4], "."), ([40], "T")]))["episode_return"].tolist() == [70]


def test_another_number_of_rows_begins_new_episodes() -> None:
    meter = EpisodeMeter(1)
    meter.add(batch([([1], ".")]))
    assert meter.add(batch([([2], "T"), ([4], "T")]))["episode_return"].tolist() == [3]


def test_invalid_steps_do_not_count() -> None:
    meter = EpisodeMeter(1)
    found = meter.add(batch([([1, NAN, 2, NAN], ".xTx")]))
    assert (found["episode_return"].item(), found["episode_length"].item(), meter.steps.item()) == (3, 2, 2)


def test_an_episode_that_terminates_and_is_cut_at_once_ends_once() -> None:
    both = torch.tensor([[[True]]])
    meter = EpisodeMeter(1)
    meter.add(Trajectories(torch.tensor([[[2.0]]]), both, both, both))
    assert meter.episodes.tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_taken_in_float64(dtype: torch.dtype) -> None:
    # 2**24 + 1 + 1 = 16777218; in float32 each 1 would be lost
    rewards = torch.tensor([[[2.0**24, 1.0, 1.0]]], dtype=dtype)
    none = torch.zeros_like(rewards, dtype=torch.bool)
    ends = none.clone()
    ends[..., -1] = True
    assert EpisodeMeter(1).add(Trajectories(rewards, ends, none, ~none))["episode_return"].item() == 2**24 + 2


def test_a_restored_meter_goes_on_in_the_middle_of_an_episode() -> None:
    meter, other = EpisodeMeter(1), EpisodeMeter(1)
    meter.add(batch([([1, 2], "T.")]))
    other.load_state_dict({name: x.clone() for name, x in meter.state_dict().items()})
    last = batch([([3, 4], ".T")])
    assert other.add(last)["episode_return"].tolist() == meter.add(last)["episode_return"].tolist() == [9]
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in meter.state_dict().items())


def test_two_meters_restored_from_one_state_do_not_share_it() -> None:
    meter = EpisodeMeter(1)
    meter.add(batch([([1, 2], "T.")]))
    state = {name: x.clone() for name, x in meter.state_dict().items()}
    one, two = EpisodeMeter(1), EpisodeMeter(1)
    one.load_state_dict(state)
    two.load_state_dict(state)
    one.add(batch([([3, 4], ".T")]))
    assert two.steps.tolist() == [2] and two.add(batch([([3, 4], ".T")]))["episode_return"].tolist() == [9]
