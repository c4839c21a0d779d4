"""Sampling, the score function and rewards-to-go: C01, C06 to C12, E03, E04, E06, E09 to E11."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import pytest
import torch
from dense_scores import softmax_scores
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab.worlds import TabularMDP
from source_text.worlds import (
    F64,
    LOGITS,
    POLICY,
    arms,
    bandit,
    broken,
    coins,
    fair,
    gradient,
    make,
    paid_back,
    three_steps,
)

# ---- who samples


@pytest.mark.parametrize(("sampler", "own"), [((0.5, 0.25, 0.25), False), ((0.25, 0.25, 0.5), True)])
def test_c01_on_policy_is_data_of_the_policy_that_is_improved_whoever_generated_it(
    sampler: tuple[float, ...], own: bool
) -> None:
    # Data that the learner itself generated one update ago are off-policy; old records from the same distribution are
    # on-policy. Only the first need the ratio: r = (1, -2, 4), and E_μ[r ∇log π] is not E_π[r ∇log π] where μ ≠ π.
    world, policy, data = bandit(1, -2, 4), arms(0.25, 0.25, 0.5), arms(*sampler)
    plain = gradient(world, policy, make("monte_carlo", gamma=1.0), behaviour=data)
    weighed = gradient(world, policy, make("monte_carlo", gamma=1.0), objective="importance_weighted", behaviour=data)
    assert (plain.bias < 1e-14) is own
    assert plain.bias > 0.5 or own
    assert weighed.bias < 1e-14
    ratios = policy / data
    assert (float((data * (ratios - 1).abs())[0].sum()) == 0) is own  # E|ρ - 1|, what tells the two apart


# ---- the score function


def test_c06_e06_dynamics_drop_out_of_the_score_of_an_episode() -> None:
    # ∂ log P(τ) / ∂θ by central differences of P(τ) itself, dynamics included, against Σ_t ∇ log π(a_t|s_t)
    world, step = three_steps(), 1e-5
    assert (world.transition[0] > 0).sum(-1).tolist() == [2, 2]  # s and a do not fix what follows
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


def test_e03_one_score_too_many_has_mean_zero_and_adds_variance() -> None:
    # Printed: Σ_{t=0}^{T} ∇log π(a_t|s_t), one action more than the T that the probability of an episode has. That
    # action is drawn at s_T, so with its score x: E[g + x R] = E g and E‖g + x R‖² = E‖g‖² + E‖x‖² E[R²].
    world = three_steps()
    outcomes, scores = world.enumerate(POLICY, 3), softmax_scores(POLICY)
    returns = outcomes.trajectories.rewards.sum(1)
    right = scores[outcomes.states[:, :-1], outcomes.actions].sum(1) * returns[:, None]
    extra = scores[outcomes.states[:, -1]] * returns[:, None, None]  # [n,a,p], of each action that may be drawn there
    chances = outcomes.probabilities[:, None] * POLICY[outcomes.states[:, -1]]
    printed = right[:, None] + extra

    mean, printed_mean = outcomes.probabilities @ right, torch.einsum("na,nap->p", chances, printed)
    torch.testing.assert_close(printed_mean, mean, rtol=0, atol=1e-14)
    added = torch.einsum("na,nap->", chances, printed.square()) - outcomes.probabilities @ right.square().sum(1)
    score = float(POLICY[5] @ scores[5].square().sum(1))
    assert float(added) == pytest.approx(score * float(outcomes.probabilities @ returns.square()), rel=1e-12)
    assert float(added) > 0.1
    assert float(extra.abs().max()) > 0.1  # so printed: Σ_{t=0}^{T} ∇log π is not ∇log P(τ), which c06 finds right


def test_e04_gamma_one_needs_episodes_that_end() -> None:
    def loop(gamma: float) -> float:  # pays 1 for ever
        transition, reward = torch.tensor([[[1.0, 0]], [[0.0, 1]]]), torch.ones(2, 1, 2)
        world = TabularMDP(transition, reward, torch.tensor([1.0, 0]), torch.tensor([False, True]), gamma)
        return float(world.expected_return(torch.ones(2, 1)))

    assert loop(0.5) == pytest.approx(2, rel=1e-15)  # Σ γ^t = 1 / (1 - γ)
    assert loop(0.99) == pytest.approx(100, rel=1e-13)
    assert loop(1.0) == math.inf
    assert float(coins(3).expected_return(torch.tensor([[1.0, 0]] * 4))) == 3  # γ = 1, and the end is certain


@pytest.mark.parametrize("fixed", [True, False])
def test_c07_an_opponent_drops_out_only_while_it_does_not_learn(fixed: bool) -> None:
    # One move each, the payoff is M[a,b]. J = π M σ has gradient (D - ππ') M σ, D - ππ' = ∂π/∂θ, where σ is fixed. In
    # self-play σ = π(θ): an antisymmetric M gives J = 0 for every θ, so ∇J = 0, while the score function of the own
    # side alone still expects (D - ππ') M π.
    payoff = torch.tensor([[0.0, -1, 2], [1, 0, -1], [-2, 1, 0]], dtype=F64)
    own = torch.tensor([0.5, 0.25, 0.25], dtype=F64)
    reply = torch.tensor([0.25, 0.25, 0.5], dtype=F64) if fixed else own
    transition, reward = torch.zeros(4, 3, 4, dtype=F64), torch.zeros(4, 3, 4, dtype=F64)
    transition[0, :, 1:], reward[0, :, 1:] = reply, payoff
    at = torch.arange(4)
    world = TabularMDP(transition, reward, at == 0, at > 0)
    score_function = gradient(world, own.expand(4, 3), make("monte_carlo", gamma=1.0)).expected[:3]

    logits = own.log().requires_grad_()
    policy = logits.softmax(0)
    (true,) = torch.autograd.grad(policy @ payoff @ (reply if fixed else policy), logits)
    jacobian = own.diag() - own.outer(own)
    torch.testing.assert_close(score_function, jacobian @ payoff @ reply, rtol=0, atol=1e-15)
    if fixed:
        torch.testing.assert_close(score_function, true, rtol=0, atol=1e-15)
    else:
        torch.testing.assert_close(true, torch.zeros(3, dtype=F64), rtol=0, atol=1e-15)
        assert float(score_function.norm()) > 0.1


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


def test_c09_the_estimator_reads_what_happened_and_not_how_likely_the_world_made_it() -> None:
    # Two worlds with the same rewards of each (s,a,s') and other chances of s': every episode has the same gradient in
    # both, only its probability differs, and the estimator is unbiased in each.
    world = three_steps()
    moved = world.transition[:, :, [0, 2, 1, 4, 3, 5]]  # 1 and 2, 3 and 4 change places
    other = TabularMDP(moved, world.reward, world.start, world.terminal)
    reinforce = make("total_return", gamma=1.0)
    here, there = world.enumerate(POLICY, 3), other.enumerate(POLICY, 3)
    assert torch.equal(here.states, there.states) and torch.equal(here.actions, there.actions)
    assert float((here.probabilities - there.probabilities).abs().max()) > 0.01
    assert torch.equal(reinforce(here.trajectories).advantages, reinforce(there.trajectories).advantages)
    first, second = gradient(world, POLICY, reinforce), gradient(other, POLICY, reinforce)
    assert first.bias < 1e-14 and second.bias < 1e-14
    assert float((first.expected - second.expected).norm()) > 0.1


def test_c10_an_unbiased_gradient_may_settle_on_a_worse_arm_for_ever() -> None:
    # Chung et al. 2021: a sampled arm a moves θ_a by α (r_a - b) / π_a, which expects α (r - b), the natural gradient,
    # for every b. With b below all rewards each draw makes its own arm likelier, so that P(arm 1 always) > 0.
    rewards, rate, start = torch.tensor([1.0, 0.7, 0], dtype=F64), 0.4, torch.full((3,), 1 / 3, dtype=F64)

    def always_arm_one(baseline: float, draws: int) -> tuple[float, float]:
        """Return the probability that each of the first draws gives arm 1, and its logit after them."""
        logits, chance = torch.zeros(3, dtype=F64), 1.0
        for _ in range(draws):
            policy = logits.softmax(0)
            chance *= float(policy[1])
            logits[1] += rate * (rewards[1] - baseline) / policy[1]
        return chance, float(logits[1])

    for baseline in (-1.0, 0.9):
        expected = rate * (rewards - baseline)  # Σ_a π_a · α (r_a - b) / π_a e_a
        fisher = start.diag() - start.outer(start)
        world = bandit(*rewards.tolist())
        true = world.policy_gradient(start.expand(2, 3))[0]
        torch.testing.assert_close(fisher @ expected, rate * true, rtol=0, atol=1e-15)

    committal, logit = always_arm_one(-1.0, 40)
    # Later draws: 1 - π_1 ≤ 2 exp(-θ_1), and θ_1 grows by at least α (r_1 - b) = 0.68 each time.
    missed = 2 * math.exp(-logit) / (1 - math.exp(-0.68))
    assert committal * (1 - missed) > 0.2
    careful, _ = always_arm_one(0.9, 40)  # b between the two best arms: drawing arm 1 makes it rarer
    assert careful < 1e-20


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
    """The misprints E09 and E11: (Σ_t ∇log π_t) (Σ_{t' ≥ u} r_t' - b) with one fixed u."""

    name = "scores_times_tail"
    conventions: ClassVar = {"gamma": 1.0}
    u: int = 0
    b: float = 0.0

    def __call__(self, batch: Trajectories) -> Advantages:
        tail = batch.rewards.where(batch.valid, 0)[..., self.u :].sum(-1, keepdim=True)
        return Advantages((tail - self.b) * batch.valid)


def test_e09_one_tail_for_all_scores_is_biased_or_no_reduction() -> None:
    world = three_steps()
    none, full = gradient(world, POLICY, ScoresTimesTail()), gradient(world, POLICY, make("total_return", gamma=1.0))
    # with u = 0 it is the full return again
    assert none.variance_trace == pytest.approx(full.variance_trace, rel=1e-13)
    for u in (1, 2):
        assert gradient(world, POLICY, ScoresTimesTail(u=u)).relative_bias > 0.1
        assert broken(ScoresTimesTail(u=u), "unbiased-gradient")
    assert gradient(world, POLICY, make("monte_carlo", gamma=1.0)).relative_bias < 1e-13
    assert broken(ScoresTimesTail(u=0), "future-only", "unbiased-gradient") == ["future-only"]
    assert not broken(make("monte_carlo", gamma=1.0), "future-only", "unbiased-gradient")


@pytest.mark.parametrize("u", [1, 2])
def test_e11_one_tail_minus_a_baseline_is_as_biased_whatever_the_baseline(u: int) -> None:
    world = three_steps()
    without = gradient(world, POLICY, ScoresTimesTail(u=u)).expected
    for b in (0.5, -3.0):
        found = gradient(world, POLICY, ScoresTimesTail(u=u, b=b))
        torch.testing.assert_close(found.expected, without, rtol=0, atol=1e-14)
        assert found.relative_bias > 0.1
        assert broken(ScoresTimesTail(u=u, b=b), "unbiased-gradient")
        assert not broken(make("constant_baseline", gamma=1.0, baseline=b), "unbiased-gradient")


class Undiscounted(AdvantageEstimator):
    """The misprint E10: R(τ) is discounted, the rewards behind the scores are not."""

    name = "undiscounted"
    gamma: float = 0.5

    def __call__(self, batch: Trajectories) -> Advantages:
        return make("monte_carlo", gamma=1.0)(batch)


class Discounted(Undiscounted):
    """γ^t Σ_{t' ≥ t} γ^{t'-t} r_t', for one episode a row without gaps."""

    name = "discounted"

    def __call__(self, batch: Trajectories) -> Advantages:
        to_go = make("monte_carlo", gamma=self.gamma)(batch).advantages
        return Advantages(to_go * self.gamma ** torch.arange(to_go.shape[-1]))


def test_e10_a_discounted_objective_weighs_later_scores_less() -> None:
    world = three_steps(gamma=0.5)
    exact = world.policy_gradient(POLICY).flatten()  # finite differences of J agree with it, see test_worlds
    right = gradient(world, POLICY, Discounted()).expected
    torch.testing.assert_close(right, exact, rtol=0, atol=1e-14)
    printed = gradient(world, POLICY, Undiscounted()).expected
    assert float((printed - exact).norm() / exact.norm()) > 0.1
    # the usual practice, Σ_t ∇log π_t G_t without γ^t, follows another vector, without the γ^t of later visits
    common = gradient(world, POLICY, make("monte_carlo", gamma=0.5)).expected
    torch.testing.assert_close(common, world.policy_gradient(POLICY, discounted=False).flatten(), rtol=0, atol=1e-14)
    assert float((common - exact).norm() / exact.norm()) > 0.1
    law = "unbiased-discounted-gradient"
    assert broken(Undiscounted(), law) and broken(make("monte_carlo", gamma=0.5), law)
    assert not broken(Discounted(), law) and not broken(make("total_return", gamma=0.5), law)
