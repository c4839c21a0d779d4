"""Entropy, the value loss and their sum with the policy loss: C22, C23, E18 to E20."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator, ValueObjective
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Trajectories, ValueBatch
from source_text.clipping import Minimum, Right
from source_text.worlds import F64, POLICY, broken, create, make, three_steps


def entropy(policy: Tensor) -> Tensor:
    return -(policy * policy.log()).sum(-1)


class WithEntropy(Right):
    """E19: c L_ENTROPY, with L_ENTROPY = -Σ p log p added to a loss; ``sign`` -1 is right."""

    name = "with_entropy"
    requires = frozenset({"old_log_probs", "entropy"})
    implements = None
    sign: float = 1.0

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.entropy is not None
        return Loss(super().__call__(batch).values + self.sign * 0.01 * batch.entropy.where(batch.valid, 0))


def test_e19_an_entropy_loss_with_a_plus_lowers_the_entropy() -> None:
    assert broken(WithEntropy(), "entropy-never-lowered")
    assert not broken(WithEntropy(sign=-1.0), "entropy-never-lowered")


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_c22_e19_minimising_the_printed_entropy_loss_ends_exploration(sign: float) -> None:
    # L = -Σ p log p is +H: to minimise it (sign 1) makes a policy greedy, to minimise its negative uniform.
    logits = torch.tensor([1.0, 0, -0.5], dtype=F64)
    found = []
    for _ in range(400):
        leaf = logits.clone().requires_grad_()
        value = entropy(leaf.softmax(0))
        (slope,) = torch.autograd.grad(sign * value, leaf)
        logits = logits - slope
        found.append(float(value.detach()))
    assert all((later < earlier) is (sign > 0) for earlier, later in pairwise(found[:20]))
    assert found[-1] < 0.01 if sign > 0 else found[-1] == pytest.approx(math.log(3), abs=1e-12)


def test_c22_e19_the_best_policy_of_return_plus_entropy_is_the_softmax_of_rewards() -> None:
    # max J + c H is reached at π ∝ exp(r / c); with the printed sign its gradient there is not 0.
    rewards, c = torch.tensor([1.0, 0, -2], dtype=F64), 0.5
    logits = (rewards / c).requires_grad_()
    policy = logits.softmax(0)
    bonus, printed = (
        torch.autograd.grad(-(policy @ rewards) + sign * c * entropy(policy), logits, retain_graph=True)[0]
        for sign in (-1, 1)
    )
    assert float(bonus.abs().max()) < 1e-15
    assert float(printed.abs().max()) > 0.1


def test_e20_no_direction_is_right_for_the_printed_total_loss() -> None:
    # One state, rewards (1, 0), π = (1/4, 3/4), V = 0. Improving means: J up, value loss down, entropy up (here J and H
    # agree, as the better arm is the rarer one). What a small step along the descent of a total does to the three:
    logits, value = torch.tensor([0.25, 0.75], dtype=F64).log().requires_grad_(), torch.zeros((), dtype=F64)
    value.requires_grad_()
    policy, rewards = logits.softmax(0), torch.tensor([1.0, 0], dtype=F64)
    old = policy.detach()
    advantages = rewards - old @ rewards
    ratio = policy / old
    surrogate = old @ torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    mistake, spread = 0.5 * (old @ (value - rewards).square()), entropy(policy)

    def changes(total: Tensor) -> list[bool]:
        """Return whether descent improves return, critic and entropy."""
        down = torch.autograd.grad(total, [logits, value], retain_graph=True)
        found = []
        for part in (policy @ rewards, -mistake, spread):
            slopes = torch.autograd.grad(part, [logits, value], retain_graph=True, allow_unused=True)
            found.append(sum(float(-(a * b).sum()) for a, b in zip(slopes, down, strict=True) if a is not None) > 0)
        return found

    # Printed: L_POLICY + c_1 L_VF + c_2 L_ENTROPY
    printed = surrogate + 0.5 * mistake + 0.01 * spread
    assert changes(printed) == [False, True, False]
    assert changes(-printed) == [True, False, True]
    assert changes(-surrogate + 0.5 * mistake - 0.01 * spread) == [True, True, True]


class Maximised(ValueObjective):
    """What becomes of the value loss where the printed total is maximised, as its policy part asks (E20)."""

    name = "maximised"

    def __call__(self, batch: ValueBatch) -> Loss:
        return Loss(-create("value", "mse")(batch).values)


def test_e20_each_direction_breaks_a_law() -> None:
    assert broken(Minimum(), "higher-advantage-pushes-up") and broken(WithEntropy(), "entropy-never-lowered")
    laws = ("best-at-target", "never-away-from-target")
    assert broken(Maximised(), *laws) == sorted(laws)
    assert not broken(create("value", "mse"), *laws)


def value_slopes(objective: str, values: Tensor, returns: Tensor, weights: Tensor) -> Tensor:
    """Return the derivative of the weighted loss by each value."""
    live = values.clone().requires_grad_()
    valid = torch.ones_like(live, dtype=torch.bool)
    loss = create("value", objective)(ValueBatch(live, returns, valid, valid)).values
    return torch.autograd.grad((weights * loss).sum(), live)[0]


def test_c23_squared_errors_are_least_at_the_mean_return_and_hubers_elsewhere() -> None:
    # Returns 0 with probability 3/4 and 8 with 1/4: mean 2. Huber, δ = 1: 3/4 v = 1/4 for v in [0,1], so v = 1/3.
    returns, chances = torch.tensor([[0.0, 8]], dtype=F64), torch.tensor([[0.75, 0.25]])

    def slope(objective: str, value: float) -> float:
        return float(value_slopes(objective, torch.full((1, 2), value, dtype=F64), returns, chances).sum())

    assert slope("mse", 2.0) == 0
    assert slope("huber", 1 / 3) == pytest.approx(0, abs=1e-16)
    assert slope("huber", 2.0) == 0.5
    assert slope("mse", 1.5) < 0 < slope("mse", 2.5)


def test_c23_in_a_world_the_mean_return_is_the_value_of_each_state() -> None:
    assert float(critic_slopes("monte_carlo").abs().max()) < 1e-15


def critic_slopes(target: str) -> Tensor:
    """Return the derivative of the expected ½ (V(s_t) - target)² by each V(s), at V = V^π."""
    world = three_steps(gamma=0.9)
    outcomes = world.enumerate(POLICY, 3).with_values(world.state_values(POLICY))
    steps, states = outcomes.trajectories, outcomes.states[:, :-1]
    returns = make("monte_carlo", gamma=0.9)(steps).returns
    if target == "printed":
        returns = returns[:, :1].expand_as(returns)  # Σ_t γ^t r_t from the start, for every step
    elif target == "gae":
        returns = make("gae", gamma=0.9, lam=0.8)(steps).returns
    chances = outcomes.probabilities[:, None].expand_as(returns)
    slopes = value_slopes("mse", steps.values, returns, chances)
    return torch.zeros(6, dtype=F64).index_add_(0, states.flatten(), slopes.flatten())


class FromTheStart(AdvantageEstimator):
    """The misprint E18: the target of every state is Σ_{t ≥ 0} γ^t r_t; one episode a row, no gaps."""

    name = "from_the_start"
    gamma: float = 0.5

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = make("monte_carlo", gamma=self.gamma)(batch).advantages
        return Advantages(returns, returns[..., :1].expand(returns.shape))


def test_e18_the_target_of_a_state_begins_at_that_state() -> None:
    # Right: E[Σ_l γ^l r_{t+l} | s_t] = V(s_t), and so has A_t + V(s_t). Printed: the sum from t = 0, for s_0 only.
    assert float(critic_slopes("gae").abs().max()) < 1e-15
    printed = critic_slopes("printed")
    assert float(printed[0].abs()) < 1e-15
    assert float(printed[1:5].abs().min()) > 0.01
    assert broken(FromTheStart(), "returns-obey-bellman")
    assert not broken(make("monte_carlo", gamma=0.5), "returns-obey-bellman")
