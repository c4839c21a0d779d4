"""λ-weighted sums of TD errors: C20, C27 to C29, E15, E22, E27 to E30."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.conformance.inputs import segments
from rlhf_lab.conformance.strategies import trajectories
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab.worlds import TabularMDP, estimator_error
from source_text.worlds import (
    FAST,
    NUMBERS,
    POLICY,
    WRONG,
    broken,
    coins,
    deltas,
    fair,
    gradient,
    make,
    n_step_sum,
    paid_back,
    steps_of,
    three_steps,
    windows,
)


@FAST
@given(
    trajectories(frozenset({"values", "next_values"})),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.3, 0.95, 1.0]),
)
def test_c20_the_recursion_is_the_sum_of_discounted_td_errors(batch: Trajectories, gamma: float, lam: float) -> None:
    # A_t = Σ_l (γλ)^l δ_{t+l} over the steps of the own episode, whatever masks, ends and cuts there are; V is 0 behind
    # a termination and the next value behind a cut.
    found = make("gae", gamma=gamma, lam=lam)(batch).advantages
    assert batch.values is not None and batch.next_values is not None
    due = torch.zeros_like(found)
    for episode in segments(batch):
        row, steps = episode.row, episode.steps
        delta = []
        for t in steps:
            after = 0.0 if bool(batch.terminated[row, t]) else float(batch.next_values[row, t])
            delta.append(float(batch.rewards[row, t]) + gamma * after - float(batch.values[row, t]))
        for i, t in enumerate(steps):
            due[row, t] = sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, len(steps)))
    torch.testing.assert_close(found, due, rtol=0, atol=1e-11)


class OneMoreDecay(AdvantageEstimator):
    """The misprint E15: "one more decay λ", so that A_t = δ_t + λ A_{t+1}, begun anywhere and never cut."""

    name = "one_more_decay"
    requires = frozenset({"values", "next_values"})
    implements = "gae"
    gamma: float = 0.5
    lam: float = 0.5
    decay: bool = False  # True: γλ, as it should be
    ends: bool = False  # True: nothing behind an end but the next value of a cut, as it should be

    def __call__(self, batch: Trajectories) -> Advantages:
        assert batch.values is not None and batch.next_values is not None
        ended = (batch.terminated | batch.truncated) & torch.tensor(self.ends)
        after = batch.next_values.masked_fill(batch.terminated & torch.tensor(self.ends), 0)
        delta = batch.rewards + self.gamma * after - batch.values
        factor = self.gamma * self.lam if self.decay else self.lam
        advantages, carry = torch.zeros_like(delta), torch.zeros_like(delta[..., 0])
        for t in reversed(range(delta.shape[-1])):
            carry = torch.where(
                batch.valid[..., t], delta[..., t] + factor * carry.masked_fill(ended[..., t], 0), carry
            )
            advantages[..., t] = carry
        answer = advantages.where(batch.valid, 0)
        return Advantages(answer, (answer + batch.values).where(batch.valid, 0))


def test_e15_the_recursion_decays_by_gamma_lambda_and_ends_with_the_episode() -> None:
    laws = ("bootstraps-on-truncation-only", "episodes-independent", "is-gae", "lambda-mixes-n-step")
    assert broken(OneMoreDecay(ends=True), *laws) == ["is-gae", "lambda-mixes-n-step"]  # the factor
    assert broken(OneMoreDecay(decay=True), *laws) == sorted(laws)  # the end
    assert not broken(OneMoreDecay(decay=True, ends=True), *laws)
    assert not broken(make("gae", gamma=0.5, lam=0.5), *laws)


class PastErrors(AdvantageEstimator):
    """The misprint E22: past errors predict future returns, A_t = Σ_l (γλ)^l δ_{t-l}."""

    name = "past_errors"
    requires = frozenset({"values", "next_values"})
    implements = "gae"
    gamma: float = 0.5
    lam: float = 0.5

    def __call__(self, batch: Trajectories) -> Advantages:
        back = Trajectories(
            *(x.flip(-1) for x in (deltas(batch, self.gamma), batch.terminated & ~batch.terminated)),
            *(x.flip(-1) for x in (batch.truncated & ~batch.truncated, batch.valid)),
        )
        answer = make("monte_carlo", gamma=self.gamma * self.lam)(back).advantages.flip(-1)
        return Advantages(answer)


def test_e22_gae_sums_the_errors_that_follow_and_no_past_one() -> None:
    # rewards (1, 0, 0), V = 0, γλ = 1/4: only the first step has an error, and what follows it is no merit of its
    batch = steps_of([1.0, 0, 0])
    assert make("gae", gamma=0.5, lam=0.5)(batch).advantages.tolist() == [[1, 0, 0]]
    assert PastErrors()(batch).advantages.tolist() == [[1, 0.25, 0.0625]]
    late = steps_of([0.0, 0, 1])
    assert make("gae", gamma=0.5, lam=0.5)(late).advantages.tolist() == [[0.0625, 0.25, 1]]
    assert broken(PastErrors(), "future-only", "is-gae") == ["future-only", "is-gae"]
    assert not broken(make("gae", gamma=0.5, lam=0.5), "future-only", "is-gae")


@FAST
@given(windows(), st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from([0.3, 0.7, 0.95]))
def test_c27_gae_is_the_weighted_mean_of_n_step_advantages(batch: Trajectories, gamma: float, lam: float) -> None:
    last = len(batch.rewards)
    gae = float(make("gae", gamma=gamma, lam=lam)(batch).advantages[0])
    shorter = (1 - lam) * sum(lam ** (n - 1) * n_step_sum(batch, gamma, n) for n in range(1, last))
    assert gae == pytest.approx(shorter + lam ** (last - 1) * n_step_sum(batch, gamma, last), abs=1e-12)


def test_c27_in_a_finite_episode_the_longest_return_takes_the_rest_of_the_weight() -> None:
    # Two steps, rewards 0 and 1, V = 0, γ = 1, λ = 1/2: A(1) = 0, A(2) = 1. GAE = 1/2 A(1) + 1/2 A(2); the weights of
    # the infinite sum, 1/2 and 1/4, would give 1/4.
    assert make("gae", gamma=1.0, lam=0.5)(steps_of([0.0, 1])).advantages.tolist() == [[0.5, 1]]


class PlainMean(AdvantageEstimator):
    """The misprint E27: (1 - λ) Σ_n λ^{n-1} A(n), also where λ is 1 and the sum ends; one episode a row, no gaps."""

    name = "plain_mean"
    requires = frozenset({"values", "next_values"})
    gamma: float = 0.5
    lam: float = 0.5

    def __call__(self, batch: Trajectories) -> Advantages:
        advantages = torch.zeros_like(batch.rewards)
        for n in range(1, batch.rewards.shape[-1] + 1):
            left = torch.arange(batch.rewards.shape[-1], 0, -1)  # steps until the end
            n_step = make("n_step", gamma=self.gamma, n=n)(batch).advantages
            advantages += (1 - self.lam) * self.lam ** (n - 1) * n_step * (left >= n)
        return Advantages(advantages)


@FAST
@given(windows(), st.sampled_from([0.5, 0.9]))
def test_e27_lambda_one_is_a_limit_that_the_printed_mean_does_not_reach(batch: Trajectories, gamma: float) -> None:
    # 1 - λ is 0 at λ = 1, whatever the advantages; the sum of errors goes to A(N) there.
    limit = n_step_sum(batch, gamma, len(batch.rewards))
    assert float(PlainMean(gamma=gamma, lam=1.0)(batch).advantages.abs().max()) == 0
    assert float(make("gae", gamma=gamma, lam=1.0)(batch).advantages[0]) == pytest.approx(limit, abs=1e-12)
    near = float(make("gae", gamma=gamma, lam=1 - 1e-9)(batch).advantages[0])
    assert near == pytest.approx(limit, abs=1e-6)  # at most 6 later errors of at most 6, weighed by 1 - λ^6 < 6e-9


def test_e27_the_printed_mean_breaks_the_laws_of_lambda() -> None:
    laws = ("lambda-mixes-n-step", "lambda-one-is-monte-carlo")
    assert broken(PlainMean(), *laws) == sorted(laws)
    assert not broken(make("gae", gamma=0.5, lam=0.5), *laws)


@FAST
@given(windows(), st.sampled_from([0.5, 0.9]), st.sampled_from([0.3, 0.7]))
def test_e28_the_coefficients_of_td_errors_in_a_cut_mixture(batch: Trajectories, gamma: float, lam: float) -> None:
    # Σ_{n=1}^k λ^{n-1} A(n) = Σ_{i<k} γ^i δ_i λ^i (1 - λ^{k-i}) / (1 - λ): the exponent falls with i
    k, delta = len(batch.rewards), deltas(batch, gamma)
    mixture = sum(lam ** (n - 1) * n_step_sum(batch, gamma, n) for n in range(1, k + 1))
    right = sum((gamma * lam) ** i * float(delta[i]) * (1 - lam ** (k - i)) / (1 - lam) for i in range(k))
    assert mixture == pytest.approx(right, abs=1e-12)


def test_e28_the_printed_coefficients_count_later_errors_too_much() -> None:
    # Two steps, V = 0, r = δ = (0, 1), γ = 1, λ = 1/2: A(1) + λ A(2) = 0 + 1/2. Printed: λ (1 - λ²) / (1 - λ) = 3/4.
    batch, lam = steps_of([0.0, 1]), 0.5
    mixture = float(sum(lam ** (n - 1) * make("n_step", gamma=1.0, n=n)(batch).advantages[0, 0] for n in (1, 2)))
    printed = sum(lam**i * float(batch.rewards[0, i]) * (1 - lam**2) / (1 - lam) for i in range(2))
    assert (mixture, printed) == (0.5, 0.75)


@FAST
@given(windows(), st.sampled_from([0.5, 0.9, 1.0]))
def test_c28_lambda_one_is_the_whole_return_and_lambda_zero_one_step(batch: Trajectories, gamma: float) -> None:
    steps = len(batch.rewards)
    whole = make("gae", gamma=gamma, lam=1.0)(batch).advantages
    assert float(whole[0]) == pytest.approx(n_step_sum(batch, gamma, steps), abs=1e-12)
    torch.testing.assert_close(make("gae", gamma=gamma, lam=0.0)(batch).advantages, deltas(batch, gamma))


class StepsForLambdaOne(AdvantageEstimator):
    """The misprint E29: at λ = 1 GAE is A^k, of k = 2 steps here."""

    name = "steps_for_lambda_one"
    requires = frozenset({"values", "next_values"})
    gamma: float = 0.5
    lam: float = 0.5

    def __call__(self, batch: Trajectories) -> Advantages:
        estimator = make("n_step", gamma=self.gamma, n=2) if self.lam == 1 else make("gae", **dict(self))
        return estimator(batch)


def test_e29_the_printed_limit_breaks_the_law_of_lambda_one() -> None:
    laws = ("lambda-one-is-monte-carlo", "lambda-zero-is-td")
    assert broken(StepsForLambdaOne(), *laws) == ["lambda-one-is-monte-carlo"]
    assert not broken(make("gae", gamma=0.5, lam=0.5), *laws)


@FAST
@given(windows().filter(lambda batch: len(batch.rewards) >= 3), NUMBERS)
def test_e29_lambda_one_is_no_k_step_advantage_unless_k_reaches_the_end(batch: Trajectories, added: float) -> None:
    # Printed: GAE(1) = A^k for the k at hand. A reward behind the k-th step changes the one and not the other.
    assert batch.values is not None
    rewards = batch.rewards.clone()
    rewards[-1] += added
    later = Trajectories(rewards, *(getattr(batch, name) for name in ("terminated", "truncated", "valid")),
                         batch.values, batch.next_values)  # fmt: skip

    def change(estimator: AdvantageEstimator) -> float:
        return float(estimator(later).advantages[0] - estimator(batch).advantages[0])

    n = len(rewards)
    assert change(make("gae", gamma=0.5, lam=1.0)) == pytest.approx(0.5 ** (n - 1) * added, abs=1e-12)
    assert change(make("n_step", gamma=0.5, n=n)) == pytest.approx(0.5 ** (n - 1) * added, abs=1e-12)
    assert change(make("n_step", gamma=0.5, n=n - 1)) == 0


def test_c28_lambda_one_is_unbiased_for_any_critic_and_lambda_zero_for_the_true_one_only() -> None:
    world = three_steps()
    one, zero = make("gae", gamma=1.0, lam=1.0), make("gae", gamma=1.0, lam=0.0)
    assert gradient(world, POLICY, one, WRONG).relative_bias < 1e-13
    assert gradient(world, POLICY, zero, WRONG).relative_bias > 0.1
    assert gradient(world, POLICY, zero, world.state_values(POLICY)).relative_bias < 1e-13


LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def spread(world: TabularMDP, critic: Tensor, horizon: int) -> list[tuple[float, float]]:
    """Return bias and variance of GAE's first advantage of action 0 for each λ."""
    found = [estimator_error(world, fair(world), make("gae", gamma=1.0, lam=lam), critic, horizon) for lam in LAMBDAS]
    return [(float(e.cell_bias[0, 0, 0]), float(e.cell_variance[0, 0, 0])) for e in found]


def test_c29_e30_variance_may_fall_with_lambda() -> None:
    # The second reward takes the first back: with V = 0, A_0 = r_0 + λ r_1 = (1 - λ) r_0.
    assert [variance for _, variance in spread(paid_back(), torch.zeros(4), 2)] == [(1 - lam) ** 2 for lam in LAMBDAS]
    # The usual case: independent coins add λ^{2l} each. A_0 = r_0 + λ r_1 + λ² r_2
    assert [variance for _, variance in spread(coins(3), torch.zeros(4), 3)] == [lam**2 + lam**4 for lam in LAMBDAS]


def test_c29_e30_bias_may_rise_with_lambda() -> None:
    # V = 0; a critic that is 1 in both states errs by E[δ_0] = 1 - 1 = 0 at λ = 0, and -λ more by E[δ_1] = -1.
    assert [bias for bias, _ in spread(coins(2), torch.tensor([1.0, 1, 0]), 2)] == [-lam for lam in LAMBDAS]
    # The usual case: a critic that errs only in the second state, by 1: λ = 1 does not ask it.
    assert [bias for bias, _ in spread(coins(2), torch.tensor([0.0, 1, 0]), 2)] == [1 - lam for lam in LAMBDAS]
