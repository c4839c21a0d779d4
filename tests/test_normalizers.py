"""Normalisers: what counts, what mixes, and what happens where there is nothing to divide by."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages import BatchNormalizer, GroupNormalizer, NoNormalizer

NAN = float("nan")
few = settings(derandomize=True, max_examples=30, deadline=None, database=None)
NORMALIZERS: list[AdvantageNormalizer] = [
    BatchNormalizer(eps=0.125),
    BatchNormalizer(ddof=0),
    BatchNormalizer(over="episodes"),
    GroupNormalizer(eps=0.125),
    GroupNormalizer(over="episodes", ddof=0),
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Trajectories, Advantages]:
    rows, steps = draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def table(strategy: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(draw(st.lists(strategy, min_size=rows * steps, max_size=rows * steps))).view(rows, steps)

    valid = table(st.booleans()).bool()
    advantages = table(st.integers(-16, 16).map(lambda k: k / 8)).double() * valid
    ends = table(st.booleans()).bool() & valid
    ids = torch.tensor(draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)))
    rewards = torch.zeros(rows, steps, dtype=torch.float64).masked_fill(~valid, NAN)
    batch = Trajectories(rewards, ends, torch.zeros_like(ends), valid, group_ids=ids)
    return batch, Advantages(advantages, torch.randn_like(advantages))


def by_definition(normalizer: AdvantageNormalizer, batch: Trajectories, advantages: Tensor) -> Tensor:
    """Weighted mean and variance in plain Python, over the steps that share a group."""
    assert isinstance(normalizer, BatchNormalizer | GroupNormalizer)
    assert batch.group_ids is not None
    found: dict[int, list[list[tuple[int, int]]]] = {}  # group: episodes: steps
    for row in range(len(batch.rewards)):
        group = int(batch.group_ids[row]) if isinstance(normalizer, GroupNormalizer) else 0
        found.setdefault(group, []).append([])
        for t in range(batch.rewards.shape[1]):
            if batch.valid[row, t]:
                found[group][-1].append((row, t))
                if batch.terminated[row, t]:
                    found[group].append([])
    out = torch.zeros_like(advantages)
    for group_episodes in found.values():
        episodes = [episode for episode in group_episodes if episode]
        by_steps = normalizer.over == "steps"
        size = sum(map(len, episodes)) if by_steps else len(episodes)
        if size <= normalizer.ddof:
            continue
        weighted = [(1 if by_steps else 1 / len(e), at, float(advantages[at])) for e in episodes for at in e]
        mean = sum(w * x for w, _, x in weighted) / size
        variance = sum(w * (x - mean) ** 2 for w, _, x in weighted) / (size - normalizer.ddof)
        for _, at, x in weighted:
            out[at] = (x - mean) / (variance**0.5 + normalizer.eps) if variance > 1e-20 else 0.0
    return out


@few
@given(cases())
def test_normalizers_follow_their_definitions(case: tuple[Trajectories, Advantages]) -> None:
    batch, raw = case
    for normalizer in NORMALIZERS:
        answer = normalizer(batch, raw)
        due = by_definition(normalizer, batch, raw.advantages)
        torch.testing.assert_close(answer.advantages, due, rtol=1e-11, atol=1e-11)
        assert answer.returns is raw.returns


@few
@given(st.lists(cases(), min_size=2, max_size=2))
def test_stacked_call_is_a_loop_of_single_calls(pair: list[tuple[Trajectories, Advantages]]) -> None:
    rows = min(len(batch.rewards) for batch, _ in pair)
    steps = min(batch.rewards.shape[1] for batch, _ in pair)
    names = ("rewards", "terminated", "truncated", "valid")
    tensors = [[getattr(batch, name)[:rows, :steps] for name in names] for batch, _ in pair]
    ids = [batch.group_ids[:rows] for batch, _ in pair if batch.group_ids is not None]
    raw = [advantages.advantages[:rows, :steps] for _, advantages in pair]
    stacked = Trajectories(*map(torch.stack, zip(*tensors, strict=True)), group_ids=torch.stack(ids))
    for normalizer in NORMALIZERS:
        together = normalizer(stacked, Advantages(torch.stack(raw))).advantages
        for run in range(2):
            alone = normalizer(Trajectories(*tensors[run], group_ids=ids[run]), Advantages(raw[run])).advantages
            assert torch.equal(together[run], alone)


def steps(advantages: list[list[float]], dtype: torch.dtype = torch.float64) -> tuple[Trajectories, Advantages]:
    """NaN marks a step that is not valid; each row is one unfinished episode of prompt 0."""
    raw = torch.tensor(advantages, dtype=dtype)
    valid = ~raw.isnan()
    no = torch.zeros_like(valid)
    ids = torch.zeros(len(raw), dtype=torch.int64)
    return Trajectories(raw.nan_to_num(), no, no, valid, group_ids=ids), Advantages(raw.nan_to_num())


def test_batch_by_hand() -> None:
    # Valid: 1, 2, 3, 6. Mean 3, squared distances 4 + 1 + 0 + 9 = 14, variance 14/3 with ddof 1 and 14/4 with ddof 0.
    batch, raw = steps([[1, NAN, 2], [3, 6, NAN]])
    for ddof, variance in ((1, 14 / 3), (0, 14 / 4)):
        answer = BatchNormalizer(ddof=ddof, eps=0)(batch, raw).advantages / (1 / variance**0.5)
        assert answer.flatten().tolist() == pytest.approx([-2, 0, -1, 0, 3, 0])


def test_over_episodes_a_long_one_weighs_no_more_than_a_short_one() -> None:
    # Three steps at 3 and an episode of one step at 1: mean 2, variance (1 + 1)/2 = 1; over steps 2.5 and 0.75.
    batch, raw = steps([[3, 3, 3], [1, NAN, NAN]])
    answer = BatchNormalizer(over="episodes", ddof=0, eps=0)(batch, raw).advantages
    assert answer.tolist() == [[1, 1, 1], [-1, 0, 0]]


@pytest.mark.parametrize("normalizer", [*NORMALIZERS, BatchNormalizer(eps=0), GroupNormalizer(eps=0, ddof=0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_to_divide_by_gives_zero(normalizer: AdvantageNormalizer, dtype: torch.dtype) -> None:
    for degenerate in ([[0.1, 0.1, NAN], [0.1, NAN, 0.1]], [[0.1, 0.1, 0.1, NAN]], [[NAN, 5]], [[NAN, NAN]]):
        assert not normalizer(*steps(degenerate, dtype)).advantages.any()


def test_a_large_common_offset_costs_no_digits() -> None:
    plain = BatchNormalizer()(*steps([[0, 1, 2, 5]])).advantages
    shifted = BatchNormalizer()(*steps([[2.0**40, 2.0**40 + 1, 2.0**40 + 2, 2.0**40 + 5]])).advantages
    assert torch.equal(plain, shifted)


def test_a_spread_beyond_the_largest_float16_does_not_overflow() -> None:
    # 60000 − (−60000) is no float16. Mean 0, variance 2 · 60000² with ddof 1: ±1/√2.
    batch, raw = steps([[-60000, 60000]], torch.float16)
    assert BatchNormalizer()(batch, raw).advantages.flatten().tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], 1e-3)


def test_defaults_are_those_of_ppo() -> None:
    # Over steps, with the sample deviation: of 1 and 3 it is √2 (and would be 1 with ddof 0).
    for normalizer in (BatchNormalizer(), GroupNormalizer()):
        answer = normalizer(*steps([[1, 3]])).advantages
        assert answer.flatten().tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-7)


def test_whitened_float32_batches_have_mean_zero_and_deviation_one() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(64, 256, generator=generator) * 1e-3 + 50
    yes = torch.ones_like(raw, dtype=torch.bool)
    answer = BatchNormalizer()(Trajectories(raw, ~yes, ~yes, yes), Advantages(raw)).advantages
    numbers = answer.double().flatten().tolist()
    assert answer.dtype == torch.float32
    assert statistics.fmean(numbers) == pytest.approx(0, abs=1e-6)
    assert statistics.stdev(numbers) == pytest.approx(1, rel=1e-4)  # eps is 1e-5 of the deviation


def test_none_returns_what_it_was_given() -> None:
    batch, raw = steps([[1, 2]])
    assert NoNormalizer()(batch, raw) is raw
