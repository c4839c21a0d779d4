"""Exact errors of estimators and gradients, against hand-solved worlds and plain loops over outcomes."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from dense_scores import softmax_scores
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator, PolicyObjective
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Trajectories
from rlhf_lab.worlds import Enumeration, TabularMDP, WorldError, estimator_error, gradient_error
from rlhf_lab.worlds.scores import score_function

F64 = torch.float64
REGISTRY = load_plugins()


def make(role: str, name: str, **parameters: Any) -> Any:
    return REGISTRY.create(role, {"name": name, **parameters})


def noise(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def layers(gamma: float = 1.0, starts: int = 2) -> TabularMDP:
    """Two layers of two states and an end: every episode has one or two steps. Random dynamics and rewards."""
    transition = torch.zeros(5, 2, 5, dtype=F64)
    transition[:2, :, 2:] = noise(2, 2, 3, seed=1).softmax(-1)
    transition[2:, :, 4] = 1
    start = torch.zeros(5)
    start[:starts] = 1 / starts
    return TabularMDP(transition, noise(5, 2, 5, seed=2), start, torch.arange(5) == 4, gamma)


def bandit(*rewards: float) -> TabularMDP:
    arms = len(rewards)
    transition = torch.zeros(2, arms, 2)
    transition[0, :, 1] = 1
    reward = torch.tensor(rewards).expand(2, arms)[..., None].expand(2, arms, 2)
    return TabularMDP(transition, reward, torch.tensor([1.0, 0]), torch.tensor([False, True]))


POLICY = noise(5, 2, seed=3).softmax(-1)
OTHER = noise(5, 2, seed=4).softmax(-1)
WRONG = noise(5, seed=5)
CRITIC_FREE = [make("advantage", "monte_carlo", gamma=1.0), make("advantage", "total_return", gamma=1.0)]
WITH_CRITIC = [
    make("advantage", "td", gamma=1.0),
    make("advantage", "n_step", gamma=1.0, n=2),
    make("advantage", "gae", gamma=1.0, lam=0.6),
    make("advantage", "value_baseline", gamma=1.0),
    make("advantage", "v_trace", gamma=1.0),
]
GROUPS = [make("advantage", "rloo"), make("advantage", "grpo"), make("advantage", "grpo_mean")]


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None)


# ---- bias and variance of the advantages


def test_a_two_armed_bandit_by_hand() -> None:
    # π = (1/4, 3/4), rewards 8 and 0: V = 2, A = (6, -2). Monte Carlo estimates (8, 0), both off by 2, without spread.
    policy = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    error = estimator_error(bandit(8, 0), policy, make("advantage", "monte_carlo"), None, 1)
    assert error.visits.tolist() == [[[0.25, 0.75], [0, 0]]]
    assert error.cell_bias.tolist() == [[[2, 2], [0, 0]]]
    assert (error.bias, error.squared_bias, error.variance, error.mse) == (2, 4, 0, 4)
    # Two responses, leave-one-out: s_i - s_j. Given arm 0: 8 or 0 by the other; mean 6, variance 64 * 3/16 = 12.
    error = estimator_error(bandit(8, 0), policy, make("advantage", "rloo"), None, 1, samples=2)
    assert error.cell_bias.abs().max() == 0
    assert error.cell_variance.tolist() == [[[12, 12], [0, 0]]]
    assert error.variance == error.mse == 12


def test_a_wrong_critic_by_hand() -> None:
    # One action; 0 -> 1 -> end, each step pays 1, V = (2, 1). The critic says (5, 3): δ_0 = 1 + 3 - 5 = -1, δ_1 = -2.
    transition = torch.tensor([[[0.0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]])
    start = torch.tensor([1.0, 0, 0])
    world = TabularMDP(transition, torch.ones(3, 1, 3), start, start.flip(0) == 1)
    critic, policy = torch.tensor([5.0, 3, 7]), torch.ones(3, 1)
    error = estimator_error(world, policy, make("advantage", "td", gamma=1.0), critic, 2)
    assert error.cell_bias.flatten().tolist() == [-1, 0, 0, 0, -2, 0]
    assert error.bias == pytest.approx(math.sqrt((1 + 4) / 2))
    # γ λ = 1/2 carries half of δ_1 back: -1 + -2/2
    error = estimator_error(world, policy, make("advantage", "gae", gamma=1.0, lam=0.5), critic, 2)
    assert error.cell_bias.flatten().tolist() == [-2, 0, 0, 0, -2, 0]


@pytest.mark.parametrize("estimator", CRITIC_FREE + WITH_CRITIC, ids=name_of)
def test_moments_equal_a_loop_over_outcomes(estimator: Any) -> None:
    world = layers()
    outcomes = world.enumerate(POLICY, 2).with_values(WRONG)
    steps = replace(outcomes.trajectories, target_log_probs=outcomes.trajectories.log_probs)
    found, truth = estimator(steps).advantages, world.advantages(POLICY)
    cells: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    for row, probability in enumerate(outcomes.probabilities.tolist()):
        for t in range(2):
            if steps.valid[row, t]:
                cell = (t, int(outcomes.states[row, t]), int(outcomes.actions[row, t]))
                cells.setdefault(cell, []).append((probability, float(found[row, t])))
    error = estimator_error(world, POLICY, estimator, WRONG, 2)
    assert int((error.visits > 0).sum()) == len(cells)
    squares = total = 0.0
    for cell, members in cells.items():
        weight = sum(p for p, _ in members)
        mean = sum(p * x for p, x in members) / weight
        assert float(error.visits[cell]) == pytest.approx(weight, abs=1e-14)
        assert float(error.cell_bias[cell]) == pytest.approx(mean - float(truth[cell[1:]]), abs=1e-13)
        spread = sum(p * (x - mean) ** 2 for p, x in members) / weight
        assert float(error.cell_variance[cell]) == pytest.approx(spread, abs=1e-13)
        squares += sum(p * (x - float(truth[cell[1:]])) ** 2 for p, x in members)
        total += weight
    assert error.mse == pytest.approx(squares / total, rel=1e-12)  # E (Â - A)² itself, not bias² + variance
    assert error.mse == pytest.approx(error.bias**2 + error.variance, rel=1e-13)


@pytest.mark.parametrize("estimator", WITH_CRITIC, ids=name_of)
def test_the_true_critic_leaves_no_bias(estimator: Any) -> None:
    world = layers()
    assert estimator_error(world, POLICY, estimator, world.state_values(POLICY), 2).bias < 1e-14


def test_the_truth_does_not_end_with_the_horizon() -> None:
    world = layers()
    values = world.state_values(POLICY)
    cut = make("advantage", "monte_carlo", gamma=1.0)
    bootstrapped = make("advantage", "gae", gamma=1.0, lam=1.0)
    assert estimator_error(world, POLICY, bootstrapped, values, 1).bias < 1e-14
    # Without a bootstrap the second step is missing: E[r_0|s,a] - A = V(s) - E[V(s')|s,a].
    missing = values[:, None] - world.transition @ values
    found = estimator_error(world, POLICY, cut, None, 1).cell_bias[0, :2]
    torch.testing.assert_close(found, missing[:2], rtol=0, atol=1e-14)


def test_group_estimators_see_one_outcome_at_a_time() -> None:
    class Single(AdvantageEstimator):
        """Centres on all it sees: right only where it sees one outcome."""

        name = "single"
        scope = "batch"
        shapes: ClassVar[list[tuple[int, ...]]] = []

        def __call__(self, batch: Trajectories) -> Advantages:
            self.shapes.append(tuple(batch.rewards.shape))
            scores = (batch.rewards * batch.valid).sum(-1, keepdim=True)
            return Advantages((scores - scores.mean(0)) * batch.valid)

    single = estimator_error(layers(), POLICY, Single(), None, 2, samples=3)
    stacked = estimator_error(layers(), POLICY, make("advantage", "grpo_mean"), None, 2, samples=3)
    assert set(Single.shapes) == {(3, 2)}
    torch.testing.assert_close(single.cell_bias, stacked.cell_bias)
    torch.testing.assert_close(single.cell_variance, stacked.cell_variance)


def test_an_estimator_sees_only_what_it_needs() -> None:
    class Nosy(AdvantageEstimator):
        name = "nosy"
        requires = frozenset({"values", "score_norms"})

        def __call__(self, batch: Trajectories) -> Advantages:
            assert batch.values is not None and batch.score_norms is not None
            assert batch.next_values is None and batch.log_probs is None and batch.group_ids is None
            return Advantages(batch.score_norms * batch.valid)

    # ‖∇ log π(a|s)‖² over softmax logits = Σ_b (1[a=b] - π(b))²: twice the other arm's probability squared
    error = estimator_error(bandit(0, 0), torch.tensor([[0.25, 0.75], [1, 0]]), Nosy(), torch.zeros(2), 1)
    assert error.cell_bias[0, 0].tolist() == pytest.approx([2 * 0.75**2, 2 * 0.25**2])
    jacobian = torch.tensor([[[3.0], [4.0]], [[0.0], [0.0]]])
    error = estimator_error(bandit(0, 0), POLICY[:2], Nosy(), torch.zeros(2), 1, jacobian=jacobian)
    assert error.cell_bias[0, 0].tolist() == [9, 16]


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("gae", "GAE needs next_values: give a critic"),
        ("running_mean_baseline", "needs baseline_scores: which an enumeration does not have"),
    ],
)
def test_what_cannot_be_given_is_said(estimator: str, message: str) -> None:
    with pytest.raises(WorldError, match=message):
        estimator_error(layers(), POLICY, make("advantage", estimator), None, 2)


# ---- gradients


REINFORCE = make("objective", "reinforce")


@pytest.mark.parametrize("estimator", CRITIC_FREE + GROUPS[:1] + WITH_CRITIC[3:4], ids=name_of)
def test_unbiased_estimators_give_the_exact_policy_gradient(estimator: Any) -> None:
    world = layers()
    error = gradient_error(world, POLICY, estimator, REINFORCE, WRONG, 2, samples=2)
    exact = world.policy_gradient(POLICY).flatten()
    torch.testing.assert_close(error.true, exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(error.expected, exact, rtol=0, atol=1e-14)
    assert error.bias < 1e-14 and error.relative_bias < 1e-13
    assert error.cosine == pytest.approx(1, abs=1e-14)


def test_a_biased_critic_biases_the_gradient() -> None:
    # δ asks the critic for V(s'): its error e(s') stays, and E Σ_t ∇log π(a_t|s_t) e(s_{t+1}) is what it adds.
    world, td = layers(), make("advantage", "td", gamma=1.0)
    error = gradient_error(world, POLICY, td, REINFORCE, WRONG, 2)
    wrong_by = (world.transition @ ((WRONG - world.state_values(POLICY)) * ~world.terminal))[..., None]
    taken = (world.occupancy(POLICY)[:, None] * POLICY)[..., None]
    added = (taken * wrong_by * softmax_scores(POLICY)).sum((0, 1))
    torch.testing.assert_close(error.expected - error.true, added, rtol=0, atol=1e-15)
    assert error.bias == pytest.approx(float(added.norm())) and error.bias > 0.001
    assert error.relative_bias == pytest.approx(error.bias / float(error.true.norm()))
    along = float(error.expected @ error.true) / float(error.expected.norm() * error.true.norm())
    assert error.cosine == pytest.approx(along) and error.cosine < 1
    assert gradient_error(world, POLICY, td, REINFORCE, world.state_values(POLICY), 2).bias < 1e-14


@pytest.mark.parametrize(
    ("rewards", "policy", "noise"),
    [
        # g is 8 (3/4, -3/4) once in four times, else 0: E g = (3/2, -3/2), its square 9/2; E‖g‖² = 18, variance 27/2
        ((8, 0), (0.25, 0.75), 3),
        ((80, 0), (0.25, 0.75), 3),  # whatever the scale
        ((8, 8), (0.5, 0.5), math.inf),  # ±(4, -4)
        ((0, 0), (0.5, 0.5), math.nan),
    ],
)
def test_noise_is_the_variance_by_the_square_of_the_mean(
    rewards: tuple[float, ...], policy: tuple[float, ...], noise: float
) -> None:
    table = torch.tensor([policy, (0.5, 0.5)])
    error = gradient_error(bandit(*rewards), table, make("advantage", "monte_carlo"), REINFORCE, None, 1)
    assert error.noise == pytest.approx(noise, rel=1e-14, nan_ok=True)


def test_the_group_mean_shrinks_the_gradient() -> None:
    # With the own score in the baseline, E g = (K-1)/K ∇J (Liu et al. 2025)
    for samples in (2, 3):
        found = gradient_error(layers(), POLICY, make("advantage", "grpo_mean"), REINFORCE, None, 2, samples=samples)
        torch.testing.assert_close(found.expected, found.true * (samples - 1) / samples, rtol=0, atol=1e-14)


def outcome_gradients(outcomes: Enumeration, advantages: Tensor, policy: Tensor) -> Tensor:
    """Σ_t A_t ∇ log π(a_t|s_t) of each outcome, by autograd through logits, one outcome at a time."""
    logits = policy.log().requires_grad_()
    gradients = []
    for row in range(len(outcomes.probabilities)):
        live = logits.log_softmax(-1)[outcomes.states[row, :-1], outcomes.actions[row]]
        (gradient,) = torch.autograd.grad((live * advantages[row] * outcomes.trajectories.valid[row]).sum(), logits)
        gradients.append(gradient.flatten())
    return torch.stack(gradients)


def test_mean_and_variance_of_the_gradient_equal_a_loop_over_outcomes() -> None:
    world, estimator = layers(0.9), make("advantage", "gae", gamma=0.9, lam=0.5)
    outcomes = world.enumerate(POLICY, 2).with_values(WRONG)
    each = outcome_gradients(outcomes, estimator(outcomes.trajectories).advantages, POLICY)
    mean = outcomes.probabilities @ each
    error = gradient_error(world, POLICY, estimator, REINFORCE, WRONG, 2)
    torch.testing.assert_close(error.expected, mean, rtol=0, atol=1e-14)
    spread = outcomes.probabilities @ (each - mean).square().sum(-1)
    assert error.variance_trace == pytest.approx(float(spread), rel=1e-12)
    # discounted world, undiscounted visits: the truth is the common form without γ^t
    torch.testing.assert_close(error.true, world.policy_gradient(POLICY, discounted=False).flatten())
    assert not torch.allclose(error.true, world.policy_gradient(POLICY).flatten())


def test_large_enumerations_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradient_error(layers(), POLICY, CRITIC_FREE[0], REINFORCE, None, 2)
    monkeypatch.setattr(sys.modules["rlhf_lab.worlds.scores"], "_CHUNK", 30)  # three outcomes at a time, and a rest
    parts = gradient_error(layers(), POLICY, CRITIC_FREE[0], REINFORCE, None, 2)
    torch.testing.assert_close(parts.expected, whole.expected)
    assert parts.variance_trace == pytest.approx(whole.variance_trace, rel=1e-12)


def test_any_parametrisation_through_its_jacobian() -> None:
    # One log-odds θ for all states: ∂ log π = (-p, 1-p). dJ/dθ by central differences.
    p, step = 0.3, 1e-5
    policy = torch.tensor([0.7, 0.3], dtype=F64).expand(5, 2)
    jacobian = torch.tensor([-p, 1 - p], dtype=F64).expand(5, 2)[..., None]
    error = gradient_error(layers(), policy, CRITIC_FREE[0], REINFORCE, None, 2, jacobian=jacobian)
    theta = math.log(p / (1 - p))
    moved = torch.tensor([theta + step, theta - step], dtype=F64).sigmoid()
    up, down = layers().expected_return(torch.stack([1 - moved, moved], -1)[:, None].expand(2, 5, 2))
    assert error.expected.shape == (1,)
    assert float(error.expected) == pytest.approx(float(up - down) / (2 * step), rel=1e-9)
    assert error.cosine == pytest.approx(1)


def test_softmax_scores_are_the_derivatives_of_log_softmax() -> None:
    logits = noise(3, 4, seed=7)
    jacobian = torch.autograd.functional.jacobian(lambda x: x.log_softmax(-1), logits)
    torch.testing.assert_close(softmax_scores(logits.softmax(-1)), jacobian.flatten(2), rtol=0, atol=1e-15)


# ---- other policies


def test_importance_weights_correct_another_behaviour() -> None:
    # In a bandit the states do not depend on the policy, so Σ_a μ ρ A ∇log π = ∇J.
    world, policy, behaviour = bandit(3, -1, 2), noise(2, 3, seed=1).softmax(-1), noise(2, 3, seed=2).softmax(-1)
    uncapped = make("advantage", "v_trace", gamma=1.0, rho_bar=1e9, c_bar=1e9)
    error = gradient_error(world, policy, uncapped, REINFORCE, torch.tensor([0.7, 0]), 1, behaviour=behaviour)
    assert error.bias < 1e-14
    surrogate, returns = make("objective", "importance_weighted"), make("advantage", "monte_carlo")
    assert gradient_error(world, policy, returns, surrogate, None, 1, behaviour=behaviour).bias < 1e-14
    assert gradient_error(world, policy, returns, REINFORCE, None, 1, behaviour=behaviour).bias > 0.1


def test_the_truth_is_that_of_the_policy_not_of_the_behaviour() -> None:
    world = layers()
    error = gradient_error(world, POLICY, CRITIC_FREE[0], REINFORCE, None, 2, behaviour=OTHER)
    torch.testing.assert_close(error.true, world.policy_gradient(POLICY).flatten(), rtol=0, atol=1e-14)
    visits = estimator_error(world, POLICY, CRITIC_FREE[0], None, 2, behaviour=OTHER).visits
    torch.testing.assert_close(visits.sum((0, 2)), world.occupancy(OTHER))


def test_an_action_that_the_policy_never_takes_has_ratio_zero() -> None:
    world, policy = bandit(3, -1), torch.tensor([[1.0, 0], [1, 0]])
    estimator = make("advantage", "v_trace", gamma=1.0, rho_bar=1e9)
    error = gradient_error(world, policy, estimator, REINFORCE, torch.zeros(2), 1, behaviour=torch.full((2, 2), 0.5))
    assert error.expected.tolist() == pytest.approx([0] * 4, abs=1e-300)  # a saturated softmax has no gradient
    assert error.variance_trace == pytest.approx(0, abs=1e-300)


def test_the_proximal_policy_decides_what_is_clipped() -> None:
    # ρ = 0.5/0.25 = 2 for arm 0 and 2/3 for arm 1; A = s: arm 0 gains (clipped), arm 1 loses (clipped below 0.8).
    world, old = bandit(3, -1), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    policy, clip = torch.full((2, 2), 0.5), make("objective", "ppo_clip")
    returns = make("advantage", "monte_carlo")
    assert gradient_error(world, policy, returns, clip, None, 1, old_policy=old).expected.abs().max() == 0
    # by default the behaviour is the proximal policy, here the policy itself: ratio 1, nothing clipped
    assert gradient_error(world, policy, returns, clip, None, 1).bias < 1e-15
    assert gradient_error(world, policy, returns, clip, None, 1, behaviour=old).expected.abs().max() == 0


class TowardsReference(PolicyObjective):
    """½ (log π - log π_ref)², whose expected gradient is that of KL(π ‖ π_ref)."""

    name = "towards_reference"
    requires = frozenset({"ref_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.ref_log_probs is not None and batch.old_log_probs is None
        return Loss(0.5 * (batch.log_probs - batch.ref_log_probs).square())


def test_a_reference_policy_reaches_the_objective() -> None:
    logits = noise(2, 3, seed=1).requires_grad_()
    reference = noise(2, 3, seed=2).softmax(-1)
    divergence = (logits.softmax(-1) * (logits.log_softmax(-1) - reference.log()))[0].sum()
    (exact,) = torch.autograd.grad(divergence, logits)
    arguments = (
        bandit(0, 0, 0),
        logits.detach().softmax(-1),
        make("advantage", "monte_carlo"),
        TowardsReference(),
        None,
        1,
    )
    found = gradient_error(*arguments, ref_policy=reference)
    torch.testing.assert_close(found.expected, -exact.flatten(), rtol=0, atol=1e-14)
    with pytest.raises(WorldError, match="TowardsReference needs ref_log_probs: give a ref_policy"):
        gradient_error(*arguments)


# ---- normaliser, aggregation, weights, state


def test_aggregations_and_loss_weights_scale_each_outcome() -> None:
    class FirstStepTwice(PolicyObjective):
        """REINFORCE on the first step only, counted twice."""

        name = "first_step_twice"

        def __call__(self, batch: PolicyBatch) -> Loss:
            weights = 2 * (torch.arange(batch.valid.shape[-1]) == 0).to(F64).expand(batch.valid.shape)
            return Loss(-batch.log_probs * batch.advantages, weights)

    world, returns = layers(), CRITIC_FREE[0]
    outcomes = world.enumerate(POLICY, 2)
    found = returns(outcomes.trajectories).advantages
    length = outcomes.trajectories.valid.sum(-1, keepdim=True)
    first = torch.tensor([2, 0], dtype=F64)
    cases = [
        (REINFORCE, "token_mean", 1 / length),
        (REINFORCE, "sequence_sum", torch.ones(1)),
        (REINFORCE, None, torch.ones(1)),
        (FirstStepTwice(), None, first),
        (FirstStepTwice(), "token_mean", first),  # steps of weight 0 do not count in the length either
    ]
    for objective, aggregation, scale in cases:
        mean = outcomes.probabilities @ outcome_gradients(outcomes, found * scale, POLICY)
        chosen = None if aggregation is None else make("aggregation", aggregation)
        error = gradient_error(world, POLICY, returns, objective, None, 2, aggregation=chosen)
        torch.testing.assert_close(error.expected, mean, rtol=0, atol=1e-14)


def test_a_normaliser_sees_each_outcome_as_a_batch() -> None:
    # Two responses s and s': scores are centred and divided by their deviation within the pair, so A = ±1 or 0.
    world, policy = bandit(8, 0), torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=F64)
    whiten = make("normalizer", "batch", ddof=0, eps=0.0)
    returns = make("advantage", "monte_carlo")
    error = gradient_error(world, policy, returns, REINFORCE, None, 1, samples=2, normalizer=whiten)
    # P(pair differs) = 2 * 3/16; its mean gradient is (∇log π(0) - ∇log π(1)) / 2 = (1, -1) / 2
    assert error.expected.tolist() == pytest.approx([3 / 16, -3 / 16, 0, 0], abs=1e-15)


def test_a_stateful_objective_begins_with_its_initial_state() -> None:
    # The KL penalty has no gradient at ratio 1, so PPO with it is the policy gradient there, whatever its state.
    penalised = make("objective", "ppo_kl", coef=3.0)
    error = gradient_error(layers(), POLICY, CRITIC_FREE[0], penalised, None, 2)
    assert error.bias < 1e-14
    away = [
        gradient_error(layers(), POLICY, CRITIC_FREE[0], make("objective", "ppo_kl", coef=c), None, 2, old_policy=OTHER)
        for c in (0.0, 1.0, 3.0)
    ]
    pull = away[1].expected - away[0].expected
    assert float(pull.norm()) > 0.01
    torch.testing.assert_close(away[2].expected - away[0].expected, 3 * pull)


def test_a_component_that_answers_nonsense_is_stopped_at_the_border() -> None:
    class Broken(AdvantageEstimator):
        name = "broken"

        def __call__(self, batch: Trajectories) -> Advantages:
            return Advantages(batch.rewards / 0)

    with pytest.raises(LabError, match=r"advantage 'broken': Advantages\.advantages"):
        estimator_error(layers(), POLICY, Broken(), None, 2)


# ---- scores without a table of them


def random_outcomes(states: int, actions: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """A policy, cells ``[n,t]`` with many repetitions of states and pairs, and weights, some of them 0."""
    policy = noise(states, actions, seed=1).softmax(-1)
    cell = (noise(50, steps, seed=2).abs() * 1e6).long() % (states * actions)
    weights = noise(50, steps, seed=3)
    return policy, cell, weights * (weights > -0.5)


@pytest.mark.parametrize("form", ["softmax", "table", "function"])
def test_scores_in_either_form_are_those_of_the_dense_table(form: str) -> None:
    policy, cell, weights = random_outcomes(3, 4, 6)
    dense = softmax_scores(policy)
    whole = dense.flatten(0, 1)
    jacobian: Any = {"softmax": None, "table": dense, "function": lambda s, a: dense[s, a]}[form]
    found = score_function(policy, jacobian, [cell.flatten()])
    torch.testing.assert_close(found.norms(cell), whole[cell].square().sum(-1), rtol=0, atol=1e-14)
    sums = torch.einsum("nt,ntp->np", weights, whole[cell])
    torch.testing.assert_close(found.squares(cell, weights), sums.square().sum(-1), rtol=0, atol=1e-12)
    table = noise(3, 4, seed=4)
    torch.testing.assert_close(found.total(table), table.flatten() @ whole, rtol=0, atol=1e-14)


def test_a_jacobian_is_asked_once_for_what_is_visited() -> None:
    policy, asked = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).repeat(3, 1)[:5], []
    dense = softmax_scores(policy)

    def jacobian(states: Tensor, actions: Tensor) -> Tensor:
        asked.append(set(zip(states.tolist(), actions.tolist(), strict=True)))
        return dense[states, actions]

    outcomes = layers().enumerate(policy, 2)
    steps = outcomes.trajectories.valid
    pairs = set(zip(outcomes.states[:, :-1][steps].tolist(), outcomes.actions[steps].tolist(), strict=True))
    found = gradient_error(layers(), policy, CRITIC_FREE[0], REINFORCE, None, 2, jacobian=jacobian)
    assert asked == [pairs] and (0, 1) not in pairs
    due = gradient_error(layers(), policy, CRITIC_FREE[0], REINFORCE, None, 2, jacobian=dense)
    torch.testing.assert_close(found.expected, due.expected, rtol=0, atol=1e-15)
    torch.testing.assert_close(found.true, due.true, rtol=0, atol=1e-15)
    assert found.variance_trace == pytest.approx(due.variance_trace, rel=1e-12)
    # of another behaviour, also what the policy itself visits: the truth is its own
    gradient_error(layers(), OTHER, CRITIC_FREE[0], REINFORCE, None, 2, jacobian=jacobian, behaviour=policy)
    assert pairs < asked[1]


# ---- other first states


def test_another_start_is_that_of_data_and_truth() -> None:
    start = torch.tensor([0, 0.25, 0.75, 0, 0], dtype=F64)
    moved, td = replace(layers(), start=start), make("advantage", "td", gamma=1.0)
    found = gradient_error(layers(), POLICY, td, REINFORCE, WRONG, 2, start=start)
    due = gradient_error(moved, POLICY, td, REINFORCE, WRONG, 2)
    assert torch.equal(found.expected, due.expected) and torch.equal(found.true, due.true)
    assert found.variance_trace == due.variance_trace
    other = gradient_error(layers(), POLICY, td, REINFORCE, WRONG, 2, start=start, behaviour=OTHER)
    assert torch.equal(other.true, due.true) and not torch.allclose(other.expected, due.expected)
    visits = estimator_error(layers(), POLICY, td, WRONG, 2, start=start).visits
    torch.testing.assert_close(visits[0].sum(-1), start, rtol=0, atol=1e-15)


@pytest.mark.parametrize("start", [torch.ones(2) / 2, torch.full((5,), 0.3), torch.tensor([0.5, 0, 0, 0, 0.5])])
def test_a_start_that_is_none_is_refused(start: Tensor) -> None:
    with pytest.raises(WorldError, match="start: expected"):
        layers().enumerate(POLICY, 2, start=start)


# ---- beyond the horizon


def looping(gamma: float) -> TabularMDP:
    """Three states that lead to each other, and to an end once in four steps on the mean. Random rewards."""
    transition = torch.zeros(4, 2, 4, dtype=F64)
    transition[..., :3] = 0.75 * noise(4, 2, 3, seed=6).softmax(-1)
    transition[..., 3] = 0.25
    start = torch.tensor([0.5, 0.3, 0.2, 0], dtype=F64)
    return TabularMDP(transition, noise(4, 2, 4, seed=7), start, torch.arange(4) == 3, gamma)


@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_with_exact_values_beyond_the_horizon_a_return_has_no_bias_at_any_horizon(horizon: int) -> None:
    world, policy = looping(0.9), POLICY[:4]
    returns = make("advantage", "monte_carlo", gamma=0.9)
    assert gradient_error(world, policy, returns, REINFORCE, None, horizon, beyond="value").bias < 1e-14
    assert gradient_error(world, policy, returns, REINFORCE, None, horizon).bias > 1e-3
    # its mean is Q, which is A + V, in every cell that is visited
    error = estimator_error(world, policy, returns, None, horizon, beyond="value")
    values = world.state_values(policy)[None, :, None].expand_as(error.visits)
    torch.testing.assert_close(error.cell_bias, values.where(error.visits > 0, 0), rtol=0, atol=1e-13)


def test_with_exact_values_beyond_the_horizon_a_group_has_no_bias() -> None:
    world, rloo = looping(1.0), make("advantage", "rloo")
    found = gradient_error(world, POLICY[:4], rloo, REINFORCE, None, 2, samples=2, beyond="value")
    assert found.bias < 1e-14
    assert gradient_error(world, POLICY[:4], rloo, REINFORCE, None, 2, samples=2).bias > 0.01


def test_what_stands_beyond_the_horizon_by_hand() -> None:
    # One action; 0 -> 1 -> end, each step pays 1, γ = 1/2: V = (3/2, 1), A = 0. The critic says (5, 3). One step.
    transition = torch.tensor([[[0.0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]])
    start = torch.tensor([1.0, 0, 0])
    world = TabularMDP(transition, torch.ones(3, 1, 3), start, start.flip(0) == 1, gamma=0.5)
    critic, policy = torch.tensor([5.0, 3, 7]), torch.ones(3, 1)
    td, returns = make("advantage", "td", gamma=0.5), make("advantage", "monte_carlo", gamma=0.5)
    found = {
        beyond: [
            float(estimator_error(world, policy, estimator, critic, 1, beyond=beyond).cell_bias[0, 0, 0])
            for estimator in (td, returns)
        ]
        for beyond in ("critic", "value")
    }
    assert found["critic"] == [1 + 3 / 2 - 5, 1]
    assert found["value"] == [1 + 1 / 2 - 5, 1 + 1 / 2]


def test_beyond_the_horizon_the_behaviour_goes_on() -> None:
    # 0 -> 1 -> end; only the second action in 1 pays, 8. π takes it once in four times, the behaviour always.
    transition = torch.tensor([[[0.0, 1, 0]] * 2, [[0, 0, 1]] * 2, [[0, 0, 1]] * 2])
    reward = torch.zeros(3, 2, 3)
    reward[1, 1] = 8
    world = TabularMDP(transition, reward, torch.tensor([1.0, 0, 0]), torch.arange(3) == 2)
    policy, behaviour = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5]]), torch.tensor([[0.0, 1.0]] * 3)
    returns = make("advantage", "monte_carlo", gamma=1.0)
    error = estimator_error(world, policy, returns, None, 1, behaviour=behaviour, beyond="value")
    assert error.cell_bias[0, 0].tolist() == [0, 8]  # A^π(0,·) = 0
    error = estimator_error(world, policy, returns, None, 1, beyond="value")
    assert error.cell_bias[0, 0].tolist() == [2, 2]


@pytest.mark.parametrize("estimator", CRITIC_FREE + WITH_CRITIC, ids=name_of)
def test_where_no_episode_is_cut_nothing_stands_beyond_the_horizon(estimator: Any) -> None:
    one, other = (
        gradient_error(layers(), POLICY, estimator, REINFORCE, WRONG, 3, beyond=beyond)
        for beyond in ("critic", "value")
    )
    assert torch.equal(one.expected, other.expected) and torch.equal(one.true, other.true)
    assert one.variance_trace == other.variance_trace
