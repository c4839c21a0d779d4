"""Estimators of one episode at a time, against explicit sums over the n-step definition (never the same recursion)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import BatchError, Trajectories, link_values
from rlhf_lab_advantages import (
    GAE,
    ConstantBaseline,
    LeaveOneOutBaseline,
    MonteCarlo,
    NStep,
    OptimalBaseline,
    RunningMeanBaseline,
    TDLambda,
    TemporalDifference,
    TotalReturn,
    ValueBaseline,
    VTrace,
    row_scans,
    tensor_scans,
)
from rlhf_lab_advantages.backends import backend, scans

NAN = float("nan")
few = settings(derandomize=True, max_examples=25, deadline=None, database=None)
eighths = st.integers(-24, 24).map(lambda k: k / 8)
rates = st.sampled_from([0.0, 0.5, 0.75, 0.9, 1.0])

# Every estimator with a parameter for each of its options.
ESTIMATORS: list[AdvantageEstimator] = [
    MonteCarlo(gamma=0.75),
    MonteCarlo(gamma=0.75, bootstrap=True),
    TotalReturn(gamma=0.75),
    TotalReturn(gamma=0.75, bootstrap=True),
    ConstantBaseline(gamma=0.75, baseline=0.5),
    LeaveOneOutBaseline(gamma=0.75),
    OptimalBaseline(gamma=0.75, bootstrap=True),
    RunningMeanBaseline(gamma=0.75),
    ValueBaseline(gamma=0.75),
    ValueBaseline(gamma=0.75, bootstrap=True),
    TemporalDifference(gamma=0.75),
    NStep(gamma=0.75, n=2),
    NStep(gamma=0.75, n=3),
    TDLambda(gamma=0.75, lam=0.5),
    GAE(gamma=0.75, lam=0.5),
    VTrace(gamma=0.75, lam=0.5, rho_bar=1.5, c_bar=0.75),
]


@st.composite
def batches(draw: st.DrawFn, min_rows: int = 1) -> Trajectories:
    """Ragged rows with holes, several episodes, every kind of end, live edges, and NaN wherever nobody may look."""
    rows, steps = draw(st.integers(min_rows, 3)), draw(st.integers(1, 9))
    kind = st.sampled_from([*["step"] * 8, "hole", "hole", "terminated", "truncated", "both"])
    table = draw(st.lists(st.lists(kind, min_size=steps, max_size=steps), min_size=rows, max_size=rows))

    def numbers() -> Tensor:
        return (
            torch.tensor(draw(st.lists(eighths, min_size=rows * steps, max_size=rows * steps)))
            .double()
            .view(rows, steps)
        )

    def where(*names: str) -> Tensor:
        return torch.tensor([[kind in names for kind in row] for row in table])

    terminated, truncated, valid = where("terminated", "both"), where("truncated", "both"), ~where("hole")
    values = numbers()
    following = link_values(
        values, terminated, truncated, valid, bootstraps(values, terminated, truncated, valid, numbers())
    )
    poison = ~valid
    return Trajectories(
        numbers().masked_fill(poison, NAN),
        terminated,
        truncated,
        valid,
        values=values.masked_fill(poison, NAN),
        next_values=following.masked_fill(poison | terminated, NAN),
        log_probs=(numbers() / 4).masked_fill(poison, NAN),
        target_log_probs=(numbers() / 4).masked_fill(poison, NAN),
        score_norms=numbers().abs().masked_fill(poison, NAN),
        baseline_scores=numbers()[:, 0],
    )


def bootstraps(values: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor, free: Tensor) -> Tensor:
    """Return ``values`` of the next valid step inside an episode and ``free`` numbers at its end, by plain search."""
    out = free.clone()
    for row in range(len(values)):
        steps = [t for t in range(values.shape[1]) if valid[row, t]]
        for t, after in pairwise(steps):
            if not (terminated[row, t] or truncated[row, t]):
                out[row, t] = values[row, after]
    return out


class Episode:
    """One episode as plain lists, with its step numbers: what the oracles read."""

    def __init__(self, batch: Trajectories, row: int, steps: list[int]) -> None:
        self.steps, self.row, self.length = steps, row, len(steps)
        self.rewards = [float(batch.rewards[row, t]) for t in steps]
        last = steps[-1]
        self.terminated = bool(batch.terminated[row, last])
        self.tail = 0.0 if self.terminated else read(batch.next_values, row, last)
        self.values = [read(batch.values, row, t) for t in steps] + [self.tail]
        self.ratios = [
            float(torch.tensor(read(batch.target_log_probs, row, t) - read(batch.log_probs, row, t)).double().exp())
            for t in steps
        ]
        self.norms = [read(batch.score_norms, row, t) for t in steps]

    def n_step(self, t: int, n: int, gamma: float) -> float:
        m = min(n, self.length - t)
        rewards = sum(gamma**i * self.rewards[t + i] for i in range(m))
        return rewards + gamma**m * self.values[t + m] - self.values[t]

    def reward_to_go(self, t: int, gamma: float, bootstrap: bool) -> float:
        left = self.length - t
        tail = gamma**left * self.tail if bootstrap else 0.0
        return sum(gamma**i * self.rewards[t + i] for i in range(left)) + tail


def read(x: Tensor | None, row: int, t: int) -> float:
    return 0.0 if x is None else float(x[row, t])


def episodes(batch: Trajectories) -> list[Episode]:
    found = []
    for row in range(len(batch.rewards)):
        steps: list[int] = []
        for t in range(batch.rewards.shape[1]):
            if batch.valid[row, t]:
                steps.append(t)
                if batch.terminated[row, t] or batch.truncated[row, t]:
                    found.append(Episode(batch, row, steps))
                    steps = []
        if steps:
            found.append(Episode(batch, row, steps))
    return found


def expected(batch: Trajectories, of_step: Callable[[Episode, int], float]) -> Tensor:
    out = torch.zeros_like(batch.rewards)
    for episode in episodes(batch):
        for t, at in enumerate(episode.steps):
            out[episode.row, at] = of_step(episode, t)
    return out


def close(found: Tensor | None, due: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, due, rtol=1e-11, atol=1e-11)


@few
@given(batches(), rates, st.booleans())
def test_monte_carlo_is_the_discounted_sum_to_the_end_of_the_episode(
    batch: Trajectories, gamma: float, bootstrap: bool
) -> None:
    answer = MonteCarlo(gamma=gamma, bootstrap=bootstrap)(batch)
    due = expected(batch, lambda e, t: e.reward_to_go(t, gamma, bootstrap))
    close(answer.advantages, due)
    close(answer.returns, due)


@few
@given(batches(), rates, st.booleans())
def test_total_return_repeats_the_first_return_of_each_episode(
    batch: Trajectories, gamma: float, bootstrap: bool
) -> None:
    answer = TotalReturn(gamma=gamma, bootstrap=bootstrap)(batch)
    close(answer.advantages, expected(batch, lambda e, t: e.reward_to_go(0, gamma, bootstrap)))
    close(answer.returns, expected(batch, lambda e, t: e.reward_to_go(t, gamma, bootstrap)))


@few
@given(batches(), rates)
def test_td_is_the_one_step_advantage(batch: Trajectories, gamma: float) -> None:
    answer = TemporalDifference(gamma=gamma)(batch)
    close(answer.advantages, expected(batch, lambda e, t: e.n_step(t, 1, gamma)))
    close(answer.returns, expected(batch, lambda e, t: e.n_step(t, 1, gamma) + e.values[t]))


@few
@given(batches(), rates, st.integers(1, 10))
def test_n_step_counts_valid_steps_and_is_shortened_at_an_end(batch: Trajectories, gamma: float, n: int) -> None:
    answer = NStep(gamma=gamma, n=n)(batch)
    close(answer.advantages, expected(batch, lambda e, t: e.n_step(t, n, gamma)))
    close(answer.returns, expected(batch, lambda e, t: e.n_step(t, n, gamma) + e.values[t]))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40, 59, 60, 61])
def test_n_step_slides_over_many_windows(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, 100, generator=generator) < 0.8
    ends = torch.zeros_like(valid)
    ends[0, int(valid[0, :75].nonzero()[-1])] = True  # about 60 valid steps in front of it
    zeros = torch.zeros_like(rewards)
    batch = Trajectories(rewards, ends, zeros.bool(), valid, values=zeros, next_values=zeros)
    close(NStep(gamma=0.9, n=n)(batch).advantages, expected(batch, lambda e, t: e.n_step(t, n, 0.9)))


@few
@given(batches(), rates, rates)
@pytest.mark.parametrize("kind", [GAE, TDLambda])
def test_gae_is_the_weighted_mean_of_all_n_step_advantages(
    kind: type[GAE] | type[TDLambda], batch: Trajectories, gamma: float, lam: float
) -> None:
    def mixture(e: Episode, t: int) -> float:
        left = e.length - t
        shorter = sum((1 - lam) * lam ** (n - 1) * e.n_step(t, n, gamma) for n in range(1, left))
        return shorter + lam ** (left - 1) * e.n_step(t, left, gamma)

    answer = kind(gamma=gamma, lam=lam)(batch)
    close(answer.advantages, expected(batch, mixture))
    close(answer.returns, expected(batch, lambda e, t: mixture(e, t) + e.values[t]))


@few
@given(batches(), rates, rates, st.sampled_from([0.5, 1.0, 2.0, float("inf")]), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_v_trace_is_the_sum_over_products_of_truncated_ratios(
    batch: Trajectories, gamma: float, lam: float, rho_bar: float, c_bar: float
) -> None:
    def target(e: Episode, t: int) -> float:
        total, trace = e.values[t], 1.0
        for k in range(t, e.length):
            total += gamma ** (k - t) * trace * min(rho_bar, e.ratios[k]) * e.n_step(k, 1, gamma)
            trace *= lam * min(c_bar, e.ratios[k])
        return total

    def advantage(e: Episode, t: int) -> float:
        after = target(e, t + 1) if t + 1 < e.length else e.tail
        return min(rho_bar, e.ratios[t]) * (e.rewards[t] + gamma * after - e.values[t])

    answer = VTrace(gamma=gamma, lam=lam, rho_bar=rho_bar, c_bar=c_bar)(batch)
    close(answer.advantages, expected(batch, advantage))
    close(answer.returns, expected(batch, target))


@few
@given(batches(), rates)
def test_baselines_of_one_episode_are_subtracted_where_valid(batch: Trajectories, gamma: float) -> None:
    constant, values = ConstantBaseline(gamma=gamma, baseline=0.5)(batch), ValueBaseline(gamma=gamma)(batch)
    running = RunningMeanBaseline(gamma=gamma)(batch)
    assert batch.baseline_scores is not None
    scores = batch.baseline_scores.tolist()
    close(constant.advantages, expected(batch, lambda e, t: e.reward_to_go(t, gamma, False) - 0.5))
    close(values.advantages, expected(batch, lambda e, t: e.reward_to_go(t, gamma, False) - e.values[t]))
    close(running.advantages, expected(batch, lambda e, t: e.reward_to_go(t, gamma, False) - scores[e.row]))
    for answer in (constant, values, running):
        close(answer.returns, expected(batch, lambda e, t: e.reward_to_go(t, gamma, False)))


@few
@given(batches())
@pytest.mark.parametrize("kind", [LeaveOneOutBaseline, OptimalBaseline])
def test_batch_baselines_average_over_the_other_episodes(
    kind: type[LeaveOneOutBaseline] | type[OptimalBaseline], batch: Trajectories
) -> None:
    everyone = episodes(batch)

    def advantage(e: Episode, t: int) -> float:
        others = [
            (o.norms[u] if kind is OptimalBaseline else 1.0, o.reward_to_go(u, 0.75, False))
            for o in everyone
            if (o.row, o.steps) != (e.row, e.steps)
            for u in range(o.length)
        ]
        total = sum(weight for weight, _ in others)
        baseline = sum(weight * x for weight, x in others) / total if total else 0.0
        return e.reward_to_go(t, 0.75, False) - baseline

    answer = kind(gamma=0.75)(batch)
    close(answer.advantages, expected(batch, advantage))
    close(answer.returns, expected(batch, lambda e, t: e.reward_to_go(t, 0.75, False)))


@few
@given(batches(), rates)
def test_limits_meet(batch: Trajectories, gamma: float) -> None:
    on_policy = replace(batch, target_log_probs=batch.log_probs)
    td = TemporalDifference(gamma=gamma)(batch).advantages
    whole = ValueBaseline(gamma=gamma, bootstrap=True)(batch).advantages
    close(GAE(gamma=gamma, lam=0)(batch).advantages, td)
    close(NStep(gamma=gamma, n=1)(batch).advantages, td)
    close(GAE(gamma=gamma, lam=1)(batch).advantages, whole)
    close(NStep(gamma=gamma, n=10**9)(batch).advantages, whole)
    close(VTrace(gamma=gamma)(on_policy).advantages, GAE(gamma=gamma, lam=1)(batch).advantages)
    returns = GAE(gamma=gamma, lam=0.5)(batch).returns
    assert returns is not None
    close(VTrace(gamma=gamma, lam=0.5)(on_policy).returns, returns)


@few
@given(batches())
def test_torch_backend_answers_as_the_compiled_one(batch: Trajectories) -> None:
    for estimator in ESTIMATORS:
        compiled = estimator(batch)
        with backend("torch"):
            tensors = estimator(batch)
        close(tensors.advantages, compiled.advantages)
        assert compiled.returns is not None
        close(tensors.returns, compiled.returns)


@few
@given(batches())
def test_padding_and_its_content_change_nothing(batch: Trajectories) -> None:
    def widen(x: Tensor | None, fill: float | bool) -> Tensor | None:
        return None if x is None else torch.nn.functional.pad(x, (1, 2), value=fill)

    fields = ("rewards", "values", "next_values", "log_probs", "target_log_probs", "score_norms")
    wide = replace(
        batch,
        **{name: widen(getattr(batch, name), 7e30) for name in fields},
        **{name: widen(getattr(batch, name), False) for name in ("terminated", "truncated", "valid")},
    )
    for estimator in ESTIMATORS:
        narrow, wider = estimator(batch), estimator(wide)
        close(wider.advantages[..., 1:-2], narrow.advantages)
        assert not wider.advantages[~wide.valid].any()
        assert wider.returns is not None and not wider.returns[~wide.valid].any()


@few
@given(st.lists(batches(min_rows=2), min_size=2, max_size=2))
def test_stacked_call_is_a_loop_of_single_calls(pair: list[Trajectories]) -> None:
    rows = min(len(batch.rewards) for batch in pair)
    steps = min(batch.rewards.shape[1] for batch in pair)

    def cut(x: Tensor) -> Tensor:
        return x[:rows, :steps] if x.ndim == 2 else x[:rows]

    tensors = [{k: cut(x) for k, x in vars(batch).items() if x is not None} for batch in pair]
    singles = [Trajectories(**each) for each in tensors]
    stacked = Trajectories(**{k: torch.stack([each[k] for each in tensors]) for k in tensors[0]})
    for estimator in ESTIMATORS:
        together = estimator(stacked).advantages
        for run, single in enumerate(singles):
            assert torch.equal(together[run], estimator(single).advantages)


def test_a_row_without_leading_axes_is_one_run() -> None:
    batch = one_row(rewards=[1, 2, 4], terminated=[0, 0, 1], values=[1, 2, 3], next_values=[2, 3, 0])
    table = Trajectories(**{k: x[None] for k, x in vars(batch).items() if x is not None})
    for estimator in ESTIMATORS:
        assert torch.equal(estimator(batch).advantages, estimator(table).advantages[0])


def one_row(rewards: list[float], terminated: list[int], **more: list[float]) -> Trajectories:
    optional = {"log_probs": [0.0] * len(rewards), "target_log_probs": [0.0] * len(rewards)} | more
    optional |= {"score_norms": [1.0] * len(rewards)}
    flags = torch.tensor(terminated, dtype=torch.bool)
    return Trajectories(
        torch.tensor(rewards, dtype=torch.float64),
        flags,
        torch.zeros_like(flags),
        torch.ones_like(flags),
        **{name: torch.tensor(x, dtype=torch.float64) for name, x in optional.items()},
        baseline_scores=torch.tensor(0.5, dtype=torch.float64),
    )


def test_a_game_of_three_moves_by_hand() -> None:
    batch = one_row(rewards=[1, 2, 4], terminated=[0, 0, 1], values=[1, 2, 3], next_values=[2, 3, 99])
    # γ = 1/2. G₂ = 4, G₁ = 2 + 4/2 = 4, G₀ = 1 + 4/2 = 3.
    assert MonteCarlo(gamma=0.5)(batch).advantages.tolist() == [3, 4, 4]
    assert TotalReturn(gamma=0.5)(batch).advantages.tolist() == [3, 3, 3]
    # δ₀ = 1 + 2/2 − 1 = 1, δ₁ = 2 + 3/2 − 2 = 1.5, δ₂ = 4 + 0 − 3 = 1 (terminated: 99 is not read).
    assert TemporalDifference(gamma=0.5)(batch).advantages.tolist() == [1, 1.5, 1]
    # γλ = 1/4: A₂ = 1, A₁ = 1.5 + 1/4 = 1.75, A₀ = 1 + 1.75/4 = 1.4375.
    assert GAE(gamma=0.5, lam=0.5)(batch).advantages.tolist() == [1.4375, 1.75, 1]
    # n = 2: A₀ = 1 + 2/2 + 3/4 − 1 = 1.75, A₁ = 2 + 4/2 − 2 = 2, A₂ = 4 − 3 = 1.
    assert NStep(gamma=0.5, n=2)(batch).advantages.tolist() == [1.75, 2, 1]


def test_an_observation_between_two_actions_costs_no_credit() -> None:
    # Action, two observation tokens, action with reward 1 and the end; γ = 1, λ = 0.95, V = 1/2 at the actions.
    # A₃ = 1 − 0.5 = 0.5; A₀ = (0.5 − 0.5) + 0.95·0.5 = 0.475, so the return is 0.975: one decay, not three.
    batch = Trajectories(
        torch.tensor([0, NAN, NAN, 1.0]),
        torch.tensor([False, False, False, True]),
        torch.zeros(4, dtype=torch.bool),
        torch.tensor([True, False, False, True]),
        values=torch.tensor([0.5, NAN, 100, 0.5]),
        next_values=torch.tensor([0.5, 100, NAN, NAN]),
    )
    returns = GAE(gamma=1.0, lam=0.95)(batch).returns
    assert returns is not None
    assert returns.tolist() == pytest.approx([0.975, 0, 0, 1])


def test_both_flags_set_means_terminated() -> None:
    flag = torch.tensor([True])
    batch = Trajectories(torch.ones(1), flag, flag, flag, values=torch.zeros(1), next_values=torch.full((1,), 8.0))
    for estimator in (GAE(), NStep(), TemporalDifference(), MonteCarlo(bootstrap=True), ValueBaseline(bootstrap=True)):
        assert estimator(batch).advantages.item() == 1


def test_leave_one_out_baseline_by_hand() -> None:
    # Two games of one move each in row 0 (rewards 1, 3) and one in row 1 (reward 8): the others' means are 5.5, 4.5, 2.
    ends = torch.tensor([[True, True], [True, False]])
    batch = Trajectories(torch.tensor([[1.0, 3.0], [8.0, NAN]]), ends, torch.zeros_like(ends), ends)
    assert LeaveOneOutBaseline()(batch).advantages.tolist() == [[-4.5, -1.5], [6, 0]]
    # As two runs of one row each: 1 against 3 and 3 against 1; 8 is alone, so its baseline is 0.
    stacked = Trajectories(*(getattr(batch, k)[:, None] for k in ("rewards", "terminated", "truncated", "valid")))
    assert LeaveOneOutBaseline()(stacked).advantages.tolist() == [[[-2, 2]], [[8, 0]]]


def test_optimal_baseline_weighs_others_by_their_score_norms_however_small() -> None:
    # Own norm 1e8, the others' 1e-10 and 3e-10 with returns 2 and 6: b = (2 + 18)/4 = 5, not lost beside 1e8.
    ends = torch.ones(3, 1, dtype=torch.bool)
    norms = torch.tensor([[1e8], [1e-10], [3e-10]], dtype=torch.float64)
    rewards = torch.tensor([[7.0], [2.0], [6.0]], dtype=torch.float64)
    batch = Trajectories(rewards, ends, torch.zeros_like(ends), ends, score_norms=norms)
    assert OptimalBaseline()(batch).advantages[0].item() == pytest.approx(2)


@pytest.mark.parametrize("gamma", [0.99, 1.0])
@pytest.mark.parametrize("name", ["numba", "torch"])
@pytest.mark.parametrize("kind", [GAE, TDLambda, NStep, VTrace, MonteCarlo])
def test_float32_stays_close_to_float64_over_long_rows(
    kind: type[AdvantageEstimator], name: Literal["numba", "torch"], gamma: float
) -> None:
    estimator = kind.model_validate({"gamma": gamma} | ({"n": 64} if kind is NStep else {}))
    generator = torch.Generator().manual_seed(0)
    shape = (8, 4096)
    none = torch.zeros(shape, dtype=torch.bool)
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name in ("rewards", "values", "next_values", "log_probs", "target_log_probs")
    }
    with backend(name):
        short = estimator(Trajectories(terminated=none, truncated=none, valid=~none, **tensors))
        exact = estimator(
            Trajectories(terminated=none, truncated=none, valid=~none, **{k: x.double() for k, x in tensors.items()})
        )
    for found, due in ((short.advantages, exact.advantages), (short.returns, exact.returns)):
        assert found is not None and due is not None
        assert float((found - due).abs().max()) <= 1e-6 * float(due.abs().max())


def test_n_step_is_as_exact_for_long_windows_as_for_short_ones() -> None:
    # One reward of 1e12, and 1/8 everywhere else: windows that do not hold the large one must not remember it.
    rewards = torch.full((1, 4096), 0.125, dtype=torch.float64)
    rewards[0, 2000] = 1e12
    none = torch.zeros_like(rewards, dtype=torch.bool)
    zeros = torch.zeros_like(rewards)
    batch = Trajectories(rewards, none, none, ~none, values=zeros, next_values=zeros)
    names: tuple[Literal["numba"], Literal["torch"]] = ("numba", "torch")
    for name in names:
        with backend(name):
            answer = NStep(gamma=1.0, n=300)(batch).advantages[0]
        assert (answer[2001:3797] == 300 * 0.125).all()
        assert (answer[:1701] == 300 * 0.125).all()
        assert (answer[1701:2001] > 9e11).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_answers_have_the_dtype_of_the_batch(dtype: torch.dtype) -> None:
    flags = torch.tensor([[False, True]])
    values = torch.tensor([[0.5, 1.0]], dtype=dtype)
    batch = Trajectories(
        values, flags, torch.zeros_like(flags), torch.ones_like(flags), values, torch.ones_like(values)
    )
    answer = GAE(gamma=0.5, lam=1.0)(batch)
    assert answer.advantages.dtype == dtype and answer.returns is not None and answer.returns.dtype == dtype
    assert answer.advantages.tolist() == [[0.5, 0.0]]  # 0.5 + 1/2·1 − 0.5 = 0.5 and 1 − 1 = 0


def test_strided_input_is_read_as_it_looks() -> None:
    rewards = torch.arange(6.0).reshape(3, 2).T  # [2, 3], not contiguous
    flags = torch.zeros(2, 3, dtype=torch.bool)
    due = MonteCarlo(gamma=0.5)(Trajectories(rewards.contiguous(), flags, flags, ~flags)).advantages
    assert torch.equal(MonteCarlo(gamma=0.5)(Trajectories(rewards, flags, flags, ~flags)).advantages, due)


def test_the_backend_follows_the_device_unless_one_is_forced() -> None:
    flags = torch.zeros(1, 1, dtype=torch.bool)
    batch = Trajectories(torch.zeros(1, 1), flags, flags, ~flags)
    assert scans(batch) is row_scans
    with backend("torch"):
        assert scans(batch) is tensor_scans
        with backend("numba"):
            assert scans(batch) is row_scans
    assert scans(batch) is row_scans


def test_a_missing_field_is_named() -> None:
    flags = torch.zeros(2, dtype=torch.bool)
    with pytest.raises(BatchError, match=r"Trajectories\.values is None"):
        GAE()(Trajectories(torch.zeros(2), flags, flags, ~flags))


def test_defaults_are_the_usual_ones() -> None:
    # gamma and lam as in PPO, n as in A3C, both caps as in the paper on V-trace.
    assert GAE() == GAE(gamma=0.99, lam=0.95)
    assert NStep() == NStep(gamma=0.99, n=5)
    assert VTrace() == VTrace(gamma=0.99, lam=1, rho_bar=1, c_bar=1)
    assert ConstantBaseline() == ConstantBaseline(gamma=0.99, bootstrap=False, baseline=0)


def test_bootstrap_makes_next_values_a_need() -> None:
    assert MonteCarlo().needs() == frozenset()
    assert ValueBaseline(bootstrap=True).needs() == {"values", "next_values"}


def test_components_are_registered_from_their_entry_point() -> None:
    registry = load_plugins()
    assert registry.get("advantage", "gae") is GAE
    assert registry.create("advantage", {"name": "n_step", "n": 3}) == NStep(n=3)
