"""Q, V and the advantage, TD errors and n-step estimates: C16, C17, C19, C25, C26, E13, E14, E16, E23 to E26."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from dense_scores import softmax_scores
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab.worlds import TabularMDP, estimator_error
from source_text.worlds import (
    F64,
    FAST,
    POLICY,
    WRONG,
    broken,
    coins,
    create,
    deltas,
    fair,
    gradient,
    make,
    n_step_sum,
    noise,
    three_steps,
    windows,
)

# ---- Q, V and A


def test_c16_e13_the_reward_to_go_is_a_sample_and_q_its_mean() -> None:
    world = three_steps(gamma=0.9)
    error = estimator_error(world, POLICY, make("monte_carlo", gamma=0.9), None, 3)
    mean = error.cell_bias + world.advantages(POLICY)
    torch.testing.assert_close(mean, torch.where(error.visits > 0, world.action_values(POLICY), mean))
    assert float(error.cell_variance[0, 0].min()) > 0.1


def test_c17_the_advantage_is_q_minus_v_and_averages_to_zero() -> None:
    world = three_steps(gamma=0.9)
    advantages = world.action_values(POLICY) - world.state_values(POLICY)[:, None]
    torch.testing.assert_close(world.advantages(POLICY), advantages)
    assert float((POLICY * advantages).sum(-1).abs().max()) < 1e-14
    assert float((world.optimal_action_values() - world.optimal_values()[:, None]).max()) < 1e-14


def test_c17_advantages_of_one_policy_tell_how_much_better_another_is() -> None:
    # The performance-difference lemma: J(π') - J(π) = Σ_s d_π'(s) Σ_a π'(a|s) A^π(s,a), with discounted visits of π'.
    world, other = three_steps(gamma=0.9), noise(6, 2, seed=7).softmax(-1)
    gain = float(world.expected_return(other) - world.expected_return(POLICY))
    per_state = (other * world.advantages(POLICY)).sum(-1)
    assert float(world.occupancy(other) @ per_state) == pytest.approx(gain, abs=1e-14)
    assert abs(float(world.occupancy(POLICY) @ per_state) - gain) > 1e-3  # the visits of π are not those of π'
    assert abs(gain) > 1e-3


class OneAdvantage(AdvantageEstimator):
    """The misprint E14: (Σ_t ∇log π_t) A(s,a), the advantage of one step for the scores of all; V must be V^π."""

    name = "one_advantage"
    conventions: ClassVar = {"gamma": 1.0}
    requires = frozenset({"values", "next_values"})
    u: int = 0

    def __call__(self, batch: Trajectories) -> Advantages:
        assert batch.values is not None and batch.next_values is not None
        error = batch.rewards + batch.next_values - batch.values
        return Advantages(error[..., self.u, None] * batch.valid)


@pytest.mark.parametrize("u", [0, 1, 2])
def test_e14_each_score_needs_the_advantage_of_its_own_step(u: int) -> None:
    # E[∇log π_t A_u] = 0 for t ≠ u, so that one advantage for all scores keeps one term of the sum and loses the rest.
    world, values = three_steps(), three_steps().state_values(POLICY)
    printed = gradient(world, POLICY, OneAdvantage(u=u), values)
    outcomes = world.enumerate(POLICY, 3)
    state, action = outcomes.states[:, u], outcomes.actions[:, u]
    one_term = softmax_scores(POLICY)[state, action] * world.advantages(POLICY)[state, action, None]
    torch.testing.assert_close(printed.expected, outcomes.probabilities @ one_term, rtol=0, atol=1e-14)
    assert printed.relative_bias > 0.1
    assert gradient(world, POLICY, make("td", gamma=1.0), values).relative_bias < 1e-13
    assert broken(OneAdvantage(u=u), "unbiased-advantages")
    assert not broken(make("td", gamma=1.0), "unbiased-advantages")


# ---- TD errors


def test_c26_e25_a_td_error_is_an_advantage_in_the_mean_and_no_error_of_the_value() -> None:
    # With the true V: E[δ|s,a] = A(s,a) and E[δ|s] = 0, and still δ is not 0: V(s) = r + γ V(s') holds in the mean
    # only.
    world, delta = three_steps(gamma=0.9), make("td", gamma=0.9)
    error = estimator_error(world, POLICY, delta, world.state_values(POLICY), 3)
    assert error.bias < 1e-14
    mean = (error.visits * (error.cell_bias + world.advantages(POLICY))).sum(-1)
    assert float(mean.abs().max()) < 1e-15
    assert error.variance > 0.1
    outcomes = world.enumerate(POLICY, 3).with_values(world.state_values(POLICY))
    assert float(delta(outcomes.trajectories).advantages.abs().min()) > 1e-3  # as printed it holds in no step at all


def test_e23_the_gradient_sums_over_steps_and_a_mean_over_steps_is_too_small() -> None:
    # Printed: E[A ∇log π] for one (s,a) of the policy. Drawn from the steps of an episode of length 3 that is a third
    # of the gradient; drawn from the discounted visits, normalised by 1 - γ, it is 1 - γ of it.
    world = three_steps()
    per_step = gradient(world, POLICY, make("total_return", gamma=1.0), aggregation=create("aggregation", "token_mean"))
    torch.testing.assert_close(per_step.expected, per_step.true / 3, rtol=0, atol=1e-14)
    assert broken(create("aggregation", "token_mean"), "sequence-sums-averaged")
    assert not broken(create("aggregation", "sequence_sum"), "sequence-sums-averaged")

    transition = torch.zeros(2, 2, 2, dtype=F64)  # two states for ever: action a leads to state a, which pays a
    transition[:, 0, 0] = transition[:, 1, 1] = 1
    endless = TabularMDP(
        transition, transition * torch.tensor([0.0, 1]), torch.tensor([1.0, 0]), torch.zeros(2) > 0, 0.5
    )
    policy = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=F64)
    visits = endless.occupancy(policy)
    assert float(visits.sum()) == pytest.approx(2, rel=1e-14)  # 1 / (1 - γ)
    drawn = (visits / visits.sum())[:, None] * policy * endless.advantages(policy)
    torch.testing.assert_close(drawn, endless.policy_gradient(policy) / 2, rtol=0, atol=1e-14)
    assert float(drawn.abs().max()) > 0.01


class RewardMinusValue(AdvantageEstimator):
    """The misprint E24: A(t) = r_t - V(s_t)."""

    name = "reward_minus_value"
    requires = frozenset({"values"})
    gamma: float = 0.5  # which it does not read

    def __call__(self, batch: Trajectories) -> Advantages:
        assert batch.values is not None
        return Advantages((batch.rewards - batch.values).where(batch.valid, 0))


def test_e24_reward_minus_value_is_an_advantage_only_where_nothing_follows() -> None:
    for gamma in (0.0, 0.9):
        world = three_steps(gamma)
        values = world.state_values(POLICY)
        right = estimator_error(world, POLICY, make("td", gamma=gamma), values, 3)
        printed = estimator_error(world, POLICY, RewardMinusValue(), values, 3)
        assert right.bias < 1e-14
        assert float(printed.cell_bias[2].abs().max()) < 1e-14  # the last step
        # E[r - V(s)|s,a] - A(s,a) = -γ E[V(s')|s,a]
        missing = gamma * torch.einsum("sat,t->sa", world.transition, values)
        assert float(printed.cell_bias[0, 0, 0]) == pytest.approx(-float(missing[0, 0]), abs=1e-14)
        assert (printed.bias > 0.1) is (gamma > 0)
    laws = ("one-step-error", "unbiased-advantages")
    assert broken(RewardMinusValue(), *laws) == sorted(laws)
    assert not broken(RewardMinusValue(gamma=0.0), *laws) and not broken(make("td", gamma=0.5), *laws)


# ---- n real rewards, then the critic


@pytest.mark.parametrize("n", [1, 2, 3])
def test_c19_with_the_true_value_no_number_of_real_rewards_is_biased(n: int) -> None:
    world = three_steps(gamma=0.9)
    assert estimator_error(world, POLICY, make("n_step", gamma=0.9, n=n), world.state_values(POLICY), 3).bias < 1e-14


def test_c19_more_real_rewards_trade_bias_for_variance_when_the_critic_errs() -> None:
    # Coins: the return of n steps has n - 1 tosses beside the own action, the critic's error e(n) at its end and
    # e(0) = 0 at its beginning. V = 0 everywhere, so the critic is its own error.
    world, errors = coins(6), torch.tensor([0, 3, 1.5, 0.5, 0.25, 0.125, 0])
    found = [estimator_error(world, fair(world), make("n_step", gamma=1.0, n=n), errors, 6) for n in range(1, 7)]
    assert [float(e.cell_bias[0, 0, 0]) for e in found] == [3, 1.5, 0.5, 0.25, 0.125, 0]
    assert [float(e.cell_variance[0, 0, 0]) for e in found] == [0, 1, 2, 3, 4, 5]
    mse = [float(e.cell_bias[0, 0, 0] ** 2 + e.cell_variance[0, 0, 0]) for e in found]
    assert mse.index(min(mse)) == 2  # 9, 3.25, 2.25, 3.06, ...: best in between


@FAST
@given(windows().filter(lambda batch: len(batch.rewards) >= 3), st.sampled_from([0.5, 0.9, 1.0]))
def test_e16_the_printed_expansions_of_one_two_and_three_steps_are_right(batch: Trajectories, gamma: float) -> None:
    assert batch.values is not None and batch.next_values is not None
    (r0, r1, r2), (v1, v2, v3) = batch.rewards[:3].tolist(), batch.next_values[:3].tolist()
    first = float(batch.values[0])
    printed = {
        1: (r0 + gamma * v1) - first,
        2: (r0 + gamma * r1 + gamma**2 * v2) - first,
        3: (r0 + gamma * r1 + gamma**2 * r2 + gamma**3 * v3) - first,
    }
    for n, due in printed.items():
        assert float(make("n_step", gamma=gamma, n=n)(batch).advantages[0]) == pytest.approx(due, abs=1e-12)


def test_e16_they_estimate_the_advantage_with_the_true_value_only() -> None:
    world = three_steps(gamma=0.9)
    for n in (1, 2):  # n = 3 sees the whole episode
        estimator = make("n_step", gamma=0.9, n=n)
        assert estimator_error(world, POLICY, estimator, world.state_values(POLICY), 3).bias < 1e-14
        assert gradient(world, POLICY, estimator, WRONG).relative_bias > 0.05
        assert not broken(estimator, "n-step-telescopes", "unbiased-advantages")


@FAST
@given(windows(), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_c25_discounted_td_errors_telescope_to_the_n_step_advantage_for_any_critic(
    batch: Trajectories, gamma: float
) -> None:
    for n in range(1, len(batch.rewards) + 1):
        telescoped = float(sum(gamma**i * deltas(batch, gamma)[i] for i in range(n)))
        assert telescoped == pytest.approx(n_step_sum(batch, gamma, n), abs=1e-12)
        assert float(make("n_step", gamma=gamma, n=n)(batch).advantages[0]) == pytest.approx(telescoped, abs=1e-12)


class AllErrors(AdvantageEstimator):
    """The misprint E26: A^k = Σ_{i=0}^{∞} γ^i δ_{t+i}, whatever k is."""

    name = "all_errors"
    requires = frozenset({"values", "next_values"})
    gamma: float = 0.5
    n: int = 2

    def __call__(self, batch: Trajectories) -> Advantages:
        return make("gae", gamma=self.gamma, lam=1.0)(batch)


def test_e26_a_finite_sum_stops_at_k_and_its_value_term_vanishes_only_by_discount_or_end() -> None:
    # Rewards (0, 0, 4), V = (0, 1, 2) and 8 behind the cut: δ = (1, 1, 10) at γ = 1. A^1 = 1 and A^2 = 2; printed is
    # the sum of all, 12, with the expansion of A^k.
    off = torch.zeros(3, dtype=torch.bool)
    rewards, values, after = (torch.tensor(x, dtype=F64) for x in ([0.0, 0, 4], [0.0, 1, 2], [1.0, 2, 8]))
    batch = Trajectories(rewards, off, torch.tensor([False, False, True]), ~off, values, after)
    assert deltas(batch, 1.0).tolist() == [1, 1, 10]
    assert [float(make("n_step", gamma=1.0, n=k)(batch).advantages[0]) for k in (1, 2, 3, 9)] == [1, 2, 12, 12]
    laws = ("n-large-is-monte-carlo", "n-one-is-td", "n-step-telescopes")
    assert AllErrors(gamma=1.0)(batch).advantages.tolist()[0] == 12
    assert broken(AllErrors(), *laws) == ["n-one-is-td", "n-step-telescopes"]
    assert not broken(make("n_step", gamma=0.5, n=2), *laws)
    # γ^k V(s_k) of a critic that says 1 everywhere, without rewards: A^k = γ^k - 1, whose limit is G - V = -1 for
    # γ < 1 only
    zero, one = torch.zeros(40, dtype=F64), torch.ones(40, dtype=F64)
    off, cut = torch.zeros(40, dtype=torch.bool), torch.arange(40) == 39
    endless = Trajectories(zero, off, cut, ~off, one, one)
    for gamma in (0.5, 1.0):
        found = [float(make("n_step", gamma=gamma, n=k)(endless).advantages[0]) for k in (1, 2, 40)]
        assert found == [gamma - 1, gamma**2 - 1, gamma**40 - 1]
