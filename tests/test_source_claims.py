"""What texts on policy gradients claim about estimators, as exact tests: where it holds, and where it does not.

Each claim is checked by enumerating every episode of a small world, without sampling. Formulas that are often printed
wrong must fail where the right ones hold. Cnn numbers a claim, Enn a correction.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Advantages, Trajectories, link_values
from rlhf_lab.worlds import GradientError, TabularMDP, estimator_error, gradient_error
from rlhf_lab.worlds.outcomes import softmax_scores

F64 = torch.float64
REGISTRY = load_plugins()
FAST = settings(derandomize=True, max_examples=30, deadline=None, database=None)


def make(name: str, **parameters: Any) -> Any:
    return REGISTRY.create("advantage", {"name": name, **parameters})


def gradient(
    world: TabularMDP, policy: Tensor, estimator: Any, critic: Tensor | None = None, **more: Any
) -> GradientError:
    horizon = len(world.terminal) - 1  # no episode of the worlds below is longer
    return gradient_error(world, policy, estimator, REGISTRY.create("objective", "reinforce"), critic, horizon, **more)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def three_steps(gamma: float = 1.0) -> TabularMDP:
    """State 0, then 1 or 2, then 3 or 4, then the end; dynamics and rewards are random, both actions everywhere."""
    transition = torch.zeros(6, 2, 6, dtype=F64)
    transition[0, :, 1:3] = noise(2, 2, seed=1).softmax(-1)
    transition[1:3, :, 3:5] = noise(2, 2, 2, seed=2).softmax(-1)
    transition[3:5, :, 5] = 1
    at = torch.arange(6)
    return TabularMDP(transition, noise(6, 2, 6, seed=3), at == 0, at == 5, gamma)


LOGITS = noise(6, 2, seed=4)
POLICY = LOGITS.softmax(-1)
WRONG = noise(6, seed=5)


def coins(tosses: int) -> TabularMDP:
    """A row of states; action 0 pays 1, action 1 pays -1, both go on to the next."""
    at = torch.arange(tosses + 1)
    transition = torch.zeros(tosses + 1, 2, tosses + 1)
    transition[at[:-1], :, at[1:]] = 1
    reward = torch.tensor([1.0, -1])[None, :, None].expand_as(transition)
    return TabularMDP(transition, reward, at == 0, at == tosses)


def fair(world: TabularMDP) -> Tensor:
    return world.uniform_policy()


def paid_back() -> TabularMDP:
    """The world itself tosses a coin: it pays 1 or -1 in the first step and takes it back in the second."""
    transition, reward = torch.zeros(4, 2, 4), torch.zeros(4, 2, 4)
    transition[0, :, 1:3] = 0.5
    transition[1:3, :, 3] = 1
    reward[0, :, 1], reward[0, :, 2], reward[1], reward[2] = 1, -1, -1, 1
    at = torch.arange(4)
    return TabularMDP(transition, reward, at == 0, at == 3)


def bandit(*rewards: float) -> TabularMDP:
    reward = torch.tensor(rewards, dtype=F64)[None, :, None].expand(2, -1, 2)
    transition = torch.tensor([0.0, 1]).expand(reward.shape)
    return TabularMDP(transition, reward, torch.tensor([1.0, 0]), torch.tensor([False, True]))


# ---- the score function


def test_c06_dynamics_drop_out_of_the_score_of_an_episode() -> None:
    # ∂ log P(τ) / ∂θ by central differences of P(τ) itself, dynamics included, against Σ_t ∇ log π(a_t|s_t)
    world, step = three_steps(), 1e-5
    outcomes = world.enumerate(POLICY, 3)
    scores = softmax_scores(POLICY)[outcomes.states[:, :-1], outcomes.actions].sum(1)
    for i in range(12):
        shift = step * torch.eye(12, dtype=F64)[i].view(6, 2)
        up, down = (world.enumerate((LOGITS + sign * shift).softmax(-1), 3).probabilities for sign in (1, -1))
        slope = (up.log() - down.log()) / (2 * step)
        torch.testing.assert_close(slope, scores[:, i], rtol=0, atol=1e-9)


def test_c06_score_times_return_is_the_gradient_of_the_expected_return() -> None:
    world, step = three_steps(), 1e-4
    shifts = step * torch.eye(12, dtype=F64).view(12, 6, 2)

    def returns(k: int) -> Tensor:
        return world.expected_return((LOGITS + k * shifts).softmax(-1))

    difference = (8 * (returns(1) - returns(-1)) - (returns(2) - returns(-2))) / (12 * step)
    found = gradient(world, POLICY, make("total_return", gamma=1.0))
    torch.testing.assert_close(found.expected, difference, rtol=0, atol=1e-9)


@pytest.mark.parametrize("episodes", [2, 3])
def test_c08_the_variance_of_the_mean_over_episodes_is_one_episodes_over_their_number(episodes: int) -> None:
    one = gradient(three_steps(), POLICY, make("total_return", gamma=1.0))
    more = gradient(three_steps(), POLICY, make("total_return", gamma=1.0), samples=episodes)
    assert one.bias < 1e-14 and more.bias < 1e-14  # unbiased at every size: that is no matter of convergence (E08)
    assert more.variance_trace == pytest.approx(one.variance_trace / episodes, rel=1e-12)


@pytest.mark.parametrize("tosses", [1, 2, 3, 4, 5])
def test_c08_c11_variance_grows_with_length_and_rewards_to_go_halve_it(tosses: int) -> None:
    # Fair coins: ‖∇log π‖² = 1/2, R = Σ ±1. E‖g‖² = Σ_t E[R²]/2 = T²/2, or Σ_t (T-t)/2 = T(T+1)/4 with rewards-to-go;
    # ‖E g‖² = T/2 for both. So the variances are T(T-1)/2 and T(T-1)/4.
    world = coins(tosses)
    full = gradient(world, fair(world), make("total_return", gamma=1.0))
    to_go = gradient(world, fair(world), make("monte_carlo", gamma=1.0))
    assert full.variance_trace == pytest.approx(tosses * (tosses - 1) / 2, abs=1e-12)
    assert to_go.variance_trace == pytest.approx(tosses * (tosses - 1) / 4, abs=1e-12)


# ---- reward-to-go


def test_c11_earlier_rewards_add_nothing_to_the_gradient() -> None:
    outcomes = three_steps().enumerate(POLICY, 3)
    scores = softmax_scores(POLICY)[outcomes.states[:, :-1], outcomes.actions]
    for earlier, later in itertools.combinations(range(3), 2):
        product = scores[:, later] * outcomes.trajectories.rewards[:, earlier, None]
        assert float((outcomes.probabilities @ product).abs().max()) < 1e-15
        product = scores[:, earlier] * outcomes.trajectories.rewards[:, later, None]  # the other way round it does
        assert float((outcomes.probabilities @ product).abs().max()) > 1e-3


def test_c12_dropping_earlier_rewards_may_add_variance() -> None:
    # The full return is always 0. The reward-to-go of the second step is ±1, its score ±1/2 for one logit.
    world, one_logit = paid_back(), torch.tensor([[-0.5], [0.5]], dtype=F64).expand(4, 2, 1)
    full = gradient(world, fair(world), make("total_return", gamma=1.0), jacobian=one_logit)
    to_go = gradient(world, fair(world), make("monte_carlo", gamma=1.0), jacobian=one_logit)
    assert (full.variance_trace, to_go.variance_trace) == (0, 0.25)
    assert full.expected.tolist() == to_go.expected.tolist() == [0]


class ScoresTimesTail(AdvantageEstimator):
    """The misprint E09: (Σ_t ∇log π_t) (Σ_{t' ≥ u} r_t') with one fixed u."""

    name = "scores_times_tail"
    u: int = 0

    def __call__(self, batch: Trajectories) -> Advantages:
        tail = batch.rewards[..., self.u :].sum(-1, keepdim=True)
        return Advantages(tail * batch.valid)


def test_e09_one_tail_for_all_scores_is_biased_or_no_reduction() -> None:
    world = three_steps()
    none, full = gradient(world, POLICY, ScoresTimesTail()), gradient(world, POLICY, make("total_return", gamma=1.0))
    assert none.variance_trace == pytest.approx(
        full.variance_trace, rel=1e-13
    )  # with u = 0 it is the full return again
    for u in (1, 2):
        assert gradient(world, POLICY, ScoresTimesTail(u=u)).relative_bias > 0.1
    assert gradient(world, POLICY, make("monte_carlo", gamma=1.0)).relative_bias < 1e-13


def test_e10_a_discounted_objective_weighs_later_scores_less() -> None:
    world = three_steps(gamma=0.5)
    common = gradient(world, POLICY, make("monte_carlo", gamma=0.5)).expected  # Σ_t ∇log π_t G_t
    exact = world.policy_gradient(POLICY).flatten()  # finite differences of J agree with it, see test_worlds
    torch.testing.assert_close(common, world.policy_gradient(POLICY, discounted=False).flatten())
    assert float((common - exact).norm() / exact.norm()) > 0.1
    # the factor γ^t on the advantage of step t restores it
    outcomes = world.enumerate(POLICY, 3)
    weighted = make("monte_carlo", gamma=0.5)(outcomes.trajectories).advantages * 0.5 ** torch.arange(3)
    scores = softmax_scores(POLICY)[outcomes.states[:, :-1], outcomes.actions]
    torch.testing.assert_close(outcomes.probabilities @ (scores * weighted[..., None]).sum(1), exact)


# ---- baselines


def test_c13_variance_is_quadratic_in_a_constant_baseline_with_least_value_at_the_weighted_mean() -> None:
    world, policy = bandit(1, -2, 4), noise(2, 3, seed=6).softmax(-1)
    square = softmax_scores(policy)[0].square().sum(-1)  # ‖∇log π(a)‖²
    scale = float(policy[0] @ square)
    best = float(policy[0] @ (square * torch.tensor([1.0, -2, 4]))) / scale

    def variance(b: float) -> float:
        return gradient(world, policy, make("constant_baseline", gamma=1.0, baseline=b)).variance_trace

    for b in (-3.0, 0.0, 2.0, 50.0):
        assert variance(b) - variance(best) == pytest.approx((b - best) ** 2 * scale, rel=1e-10)
    assert variance(50.0) > variance(0.0)  # subtracting b is no reduction by itself


def test_c13_the_true_value_is_not_the_baseline_of_least_variance() -> None:
    # Two arms: with b = π(1) Q(0) + π(0) Q(1) both arms give the same vector π(0) π(1) (Q(0) - Q(1)) (1, -1).
    world, policy = bandit(3, -1), torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=F64)
    value, best = 0.25 * 3 - 0.75, 0.75 * 3 - 0.25
    with_value = gradient(world, policy, make("value_baseline", gamma=1.0), torch.tensor([value, 0]))
    with_best = gradient(world, policy, make("value_baseline", gamma=1.0), torch.tensor([best, 0]))
    assert with_best.variance_trace == pytest.approx(0, abs=1e-15)
    assert with_value.variance_trace > 0.1
    assert with_best.expected.tolist() == pytest.approx([0.75, -0.75, 0, 0])


class ActionBaseline(AdvantageEstimator):
    """The reward-to-go minus a baseline that looks at the action it judges: its log-probability."""

    name = "action_baseline"
    requires = frozenset({"log_probs"})

    def __call__(self, batch: Trajectories) -> Advantages:
        assert batch.log_probs is not None
        returns = batch.rewards.flip(-1).cumsum(-1).flip(-1)
        return Advantages((returns - batch.log_probs) * batch.valid)


def test_c13_a_baseline_of_the_state_is_unbiased_and_one_of_the_action_is_not() -> None:
    assert gradient(three_steps(), POLICY, make("value_baseline", gamma=1.0), WRONG).bias < 1e-14
    assert gradient(three_steps(), POLICY, ActionBaseline()).bias > 0.1


def test_c14_return_minus_value_is_the_advantage_in_the_mean_only() -> None:
    world, estimator = three_steps(), make("value_baseline", gamma=1.0)
    values = world.state_values(POLICY)
    true = estimator_error(world, POLICY, estimator, values, 3)
    assert true.bias < 1e-14
    assert true.variance > 0.1  # E12: one sample is not the advantage
    wrong = estimator_error(world, POLICY, estimator, WRONG, 3)
    shift = torch.where(wrong.visits > 0, (values - WRONG)[:, None], 0)
    torch.testing.assert_close(wrong.cell_bias, shift, rtol=0, atol=1e-14)
    torch.testing.assert_close(wrong.cell_variance, true.cell_variance)
    assert gradient(world, POLICY, estimator, WRONG).bias < 1e-14  # and yet the gradient is exact


# ---- values


def test_c16_the_reward_to_go_is_a_sample_and_q_its_mean() -> None:
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


def test_c26_a_td_error_is_an_advantage_in_the_mean_and_no_error_of_the_value() -> None:
    # With the true V: E[δ|s,a] = A(s,a) and E[δ|s] = 0, and still δ is not 0 (E25: the equation holds in the mean).
    world, delta = three_steps(gamma=0.9), make("td", gamma=0.9)
    error = estimator_error(world, POLICY, delta, world.state_values(POLICY), 3)
    assert error.bias < 1e-14
    mean = (error.visits * (error.cell_bias + world.advantages(POLICY))).sum(-1)
    assert float(mean.abs().max()) < 1e-15
    assert error.variance > 0.1


# ---- n-step and λ


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


NUMBERS = st.integers(-8, 8).map(lambda i: i / 4)


@st.composite
def windows(draw: st.DrawFn) -> Trajectories:
    """One cut episode of 1 to 7 steps with any rewards and any critic."""
    steps = draw(st.integers(1, 7))
    rewards, values = (torch.tensor(draw(st.lists(NUMBERS, min_size=steps, max_size=steps)), dtype=F64) for _ in "rv")
    off = torch.zeros(steps, dtype=torch.bool)
    cut = torch.arange(steps) == steps - 1
    after = torch.full((steps,), draw(NUMBERS), dtype=F64)
    following = torch.where(cut, after, torch.cat([values[1:], values[:1]]))
    return Trajectories(rewards, off, cut, ~off, values, link_values(values, off, cut, ~off, following))


def deltas(batch: Trajectories, gamma: float) -> Tensor:
    assert batch.values is not None and batch.next_values is not None
    return batch.rewards + gamma * batch.next_values - batch.values


def n_step_sum(batch: Trajectories, gamma: float, n: int) -> float:
    """Σ_{i<n} γ^i r_i + γ^n V(s_n) - V(s_0) of the first step, term by term; n is at most the number of steps."""
    assert batch.values is not None and batch.next_values is not None
    paid = sum(gamma**i * float(batch.rewards[i]) for i in range(n))
    return paid + gamma**n * float(batch.next_values[n - 1]) - float(batch.values[0])


@FAST
@given(windows(), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
def test_c25_discounted_td_errors_telescope_to_the_n_step_advantage_for_any_critic(
    batch: Trajectories, gamma: float
) -> None:
    for n in range(1, len(batch.rewards) + 1):
        telescoped = float(sum(gamma**i * deltas(batch, gamma)[i] for i in range(n)))
        assert telescoped == pytest.approx(n_step_sum(batch, gamma, n), abs=1e-12)
        assert float(make("n_step", gamma=gamma, n=n)(batch).advantages[0]) == pytest.approx(telescoped, abs=1e-12)


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
    zero, off = torch.zeros(2, dtype=F64), torch.zeros(2, dtype=torch.bool)
    batch = Trajectories(torch.tensor([0, 1.0], dtype=F64), torch.tensor([False, True]), off, ~off, zero, zero)
    assert make("gae", gamma=1.0, lam=0.5)(batch).advantages.tolist() == [0.5, 1]


@FAST
@given(windows(), st.sampled_from([0.5, 0.9]), st.sampled_from([0.3, 0.7]))
def test_e28_the_coefficients_of_td_errors_in_a_cut_mixture(batch: Trajectories, gamma: float, lam: float) -> None:
    # Σ_{n=1}^k λ^{n-1} A(n) = Σ_{i<k} γ^i δ_i λ^i (1 - λ^{k-i}) / (1 - λ): the exponent falls with i
    k, delta = len(batch.rewards), deltas(batch, gamma)
    mixture = sum(lam ** (n - 1) * n_step_sum(batch, gamma, n) for n in range(1, k + 1))
    right = sum((gamma * lam) ** i * float(delta[i]) * (1 - lam ** (k - i)) / (1 - lam) for i in range(k))
    printed = sum((gamma * lam) ** i * float(delta[i]) * (1 - lam**k) / (1 - lam) for i in range(k))
    assert mixture == pytest.approx(right, abs=1e-12)
    if k > 1 and float(delta[1:].min()) > 0:
        assert printed > mixture  # it counts later errors too much


@FAST
@given(windows(), st.sampled_from([0.5, 0.9, 1.0]))
def test_c28_lambda_one_is_the_whole_return_and_lambda_zero_one_step(batch: Trajectories, gamma: float) -> None:
    steps = len(batch.rewards)
    whole = make("gae", gamma=gamma, lam=1.0)(batch).advantages
    assert float(whole[0]) == pytest.approx(n_step_sum(batch, gamma, steps), abs=1e-12)
    torch.testing.assert_close(make("gae", gamma=gamma, lam=0.0)(batch).advantages, deltas(batch, gamma))


def test_c28_lambda_one_is_unbiased_for_any_critic_and_lambda_zero_for_the_true_one_only() -> None:
    world = three_steps()
    one, zero = make("gae", gamma=1.0, lam=1.0), make("gae", gamma=1.0, lam=0.0)
    assert gradient(world, POLICY, one, WRONG).relative_bias < 1e-13
    assert gradient(world, POLICY, zero, WRONG).relative_bias > 0.1
    assert gradient(world, POLICY, zero, world.state_values(POLICY)).relative_bias < 1e-13


LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def test_c29_variance_may_fall_with_lambda() -> None:
    # The second reward takes the first back: with V = 0, A_0 = r_0 + λ r_1 = (1 - λ) r_0.
    world = paid_back()
    found = [estimator_error(world, fair(world), make("gae", gamma=1.0, lam=lam), torch.zeros(4), 2) for lam in LAMBDAS]
    assert [float(e.cell_variance[0, 0, 0]) for e in found] == [(1 - lam) ** 2 for lam in LAMBDAS]
    # The usual case: independent coins add λ^{2l} each. A_0 = r_0 + λ r_1 + λ² r_2
    world = coins(3)
    found = [estimator_error(world, fair(world), make("gae", gamma=1.0, lam=lam), torch.zeros(4), 3) for lam in LAMBDAS]
    assert [float(e.cell_variance[0, 0, 0]) for e in found] == [lam**2 + lam**4 for lam in LAMBDAS]


def test_c29_bias_may_rise_with_lambda() -> None:
    # V = 0; a critic that is 1 in both states errs by E[δ_0] = 1 - 1 = 0 at λ = 0, and -λ more by E[δ_1] = -1.
    world, critic = coins(2), torch.tensor([1.0, 1, 0])
    found = [estimator_error(world, fair(world), make("gae", gamma=1.0, lam=lam), critic, 2) for lam in LAMBDAS]
    assert [float(e.cell_bias[0, 0, 0]) for e in found] == [-lam for lam in LAMBDAS]
    # The usual case: a critic that errs only in the second state, by 1: λ = 1 does not ask it.
    critic = torch.tensor([0.0, 1, 0])
    found = [estimator_error(world, fair(world), make("gae", gamma=1.0, lam=lam), critic, 2) for lam in LAMBDAS]
    assert [float(e.cell_bias[0, 0, 0]) for e in found] == [1 - lam for lam in LAMBDAS]
