"""PPO's clipped loss, and what it does not prevent: C04, C21, C31, E17, E21, E32, E33."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch
from rlhf_lab.worlds import TabularMDP, gradient_error
from source_text.worlds import F64, arms, bandit, broken, create, fair, gradient, losses, make

PPO = create("objective", "ppo_clip")


def updates(
    world: TabularMDP,
    logits: Tensor,
    minibatches: int,
    rate: float,
    *,
    features: Tensor | None = None,
    objective: Any = PPO,
) -> list[Tensor]:
    """Return the policies of a one-step world before and after exact steps of PPO, all on data of the first one.

    An outcome is a state and an action, with the probability that the first policy gives it and its true advantage.
    Logits are ``features [s,a,p] @ θ`` more than they were; None is one parameter for each of them.
    """
    size = logits.numel()
    features = torch.eye(size, dtype=F64).view(*logits.shape, size) if features is None else features
    old, theta = logits.log_softmax(-1), torch.zeros(features.shape[-1], dtype=F64)
    chances, advantages = world.start[:, None] * old.exp(), world.advantages(old.exp())
    valid, found = torch.ones_like(old, dtype=torch.bool), [old.exp()]
    for _ in range(minibatches):
        leaf = theta.clone().requires_grad_()
        log_probs = (logits + features @ leaf).log_softmax(-1)
        loss = objective(PolicyBatch(log_probs, advantages, valid, valid, old_log_probs=old)).values
        theta = theta - rate * torch.autograd.grad((chances * loss).sum(), leaf)[0]
        found.append((logits + features @ theta).softmax(-1))
    return found


def test_c04_only_the_first_minibatch_of_an_update_is_on_policy() -> None:
    # Total variation between the policy that a minibatch is differentiated at and the one that its data came from.
    found = updates(bandit(1, 0, -1), arms(0.5, 0.25, 0.25).log(), 8, rate=0.1)
    distances = [float((policy - found[0])[0].abs().sum() / 2) for policy in found]
    assert distances[0] == 0
    assert all(later > earlier for earlier, later in pairwise(distances))
    # the first step by hand: A = (3/4, -1/4, -5/4), ∇_θ J = π A = (3/8, -1/16, -5/16)
    moved = torch.tensor([0.5, 0.25, 0.25], dtype=F64).log() + 0.1 * torch.tensor([6.0, -1, -5], dtype=F64) / 16
    torch.testing.assert_close(found[1][0], moved.softmax(0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("rare", "ratio"), [(0.1, 2.8), (0.02, 10.8)])
def test_c21_steps_whose_ratio_was_never_clipped_carry_the_others_out_of_the_interval(
    rare: float, ratio: float
) -> None:
    # Arms (p, (1-p)/2, (1-p)/2) that pay (1, -1, -1). The clip ends the gain of arm 0 at ρ = 1.2, but arms 1 and 2 push
    # until ρ = 0.8, and their probability goes to arm 0: it ends at 1 - 0.8 (1-p), a ratio without bound as p → 0.
    others = (1 - rare) / 2
    found = updates(bandit(1, -1, -1), arms(rare, others, others).log(), 1000, rate=0.05 / rare)
    first, *_, last = [(policy / found[0])[0] for policy in found[1:]]
    assert bool(((first > 0.8) & (first < 1.2)).all())
    assert last[1:].tolist() == pytest.approx([0.8, 0.8], abs=5e-3)  # one step beyond the edge
    assert float(last[0]) == pytest.approx(ratio, rel=0.02)
    assert ratio == pytest.approx((1 - 0.8 * (1 - rare)) / rare, rel=1e-12)
    assert torch.equal(found[-1], found[-2])  # only then is there no gradient left


def test_c21_a_penalty_holds_the_policy_at_an_optimum_and_a_clip_only_ends_the_gain() -> None:
    # max Σ π A - β KL(π_old ‖ π) is reached where A + β / ρ is one number for all arms, and KL ≤ max A / β on the way.
    # The clip stops in the same world at 0.02 log(1 / 10.8) + 0.98 log(1 / 0.8).
    world, old, beta = bandit(1, -1, -1), arms(0.02, 0.49, 0.49), 20.0
    advantages = world.advantages(old)[0]

    def found(objective: Any, rate: float) -> tuple[Tensor, float]:
        policy = updates(world, old.log(), 500, rate=rate, objective=objective)[-1][0]
        return policy / old[0], float((old[0] * (old[0] / policy).log()).sum())

    ratios, divergence = found(create("objective", "ppo_kl", coef=beta), rate=0.1)
    level = advantages + beta / ratios
    assert float(level.max() - level.min()) < 1e-9
    assert 0 < divergence < float(advantages.max()) / beta
    _, clipped = found(PPO, rate=2.5)
    assert clipped == pytest.approx(0.02 * math.log(1 / 10.8) + 0.98 * math.log(1 / 0.8), rel=0.05)
    assert clipped > 1000 * divergence


def test_c21_nothing_is_clipped_where_the_data_are_indifferent() -> None:
    # Both start states share θ: their logits of action 0 are θ and 10 θ. In the second both actions pay alike, A = 0,
    # so nothing holds its ratio while the first state's goes to 1.2: logit(0.6) = log 1.5, and there 10 log 1.5.
    transition, reward = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3)
    transition[:, :, 2] = 1
    reward[0, 0], reward[0, 1] = 1, -1
    world = TabularMDP(transition, reward, torch.tensor([0.5, 0.5, 0]), torch.tensor([False, False, True]))
    features = torch.zeros(3, 2, 1, dtype=F64)
    features[0, 0], features[1, 0] = 1, 10
    found = updates(world, torch.zeros(3, 2, dtype=F64), 400, rate=0.01, features=features)
    ratios = found[-1] / found[0]
    assert float(ratios[0, 0]) == pytest.approx(1.2, abs=2e-3)
    assert float(ratios[1, 0]) == pytest.approx(2 / (1 + 1.5**-10), abs=2e-3)
    assert float(ratios[1, 1]) < 0.04


def test_e21_the_clip_holds_near_the_last_policy_and_not_near_the_first() -> None:
    # Two arms, the better one at 5 %. One update stops where the other arm is at 0.8 of its old probability, so at
    # (1 - 0.8 · 0.95) / 0.05 = 4.8; the next one knows only the policy that it starts from, and no reference.
    policies = [arms(0.05, 0.95)]
    for _ in range(7):
        policies.append(updates(bandit(1, -1), policies[-1].log(), 200, rate=0.5)[-1])
    steps = [float(later[0, 0] / earlier[0, 0]) for earlier, later in pairwise(policies)]
    assert steps[0] == pytest.approx(4.8, rel=0.02)
    assert float(policies[-1][0, 0] / policies[0][0, 0]) > 19  # 1 / 0.05 = 20 is all there is
    assert "ref_log_probs" not in PPO.needs()


def test_c31_a_ratio_outside_the_interval_is_clipped_for_one_sign_of_the_advantage_only() -> None:
    ratios, eps = torch.tensor([0.5, 1, 1.5]), 0.2
    up, up_slope = losses(create("objective", "ppo_clip", clip=eps), ratios, torch.ones(3))
    down, down_slope = losses(create("objective", "ppo_clip", clip=eps), ratios, -torch.ones(3))
    assert up.tolist() == pytest.approx([-0.5, -1, -1.2])
    assert up_slope.tolist() == pytest.approx([-0.5, -1, 0])  # ∂L/∂log π = -ρA, or 0 where clipped
    assert down.tolist() == pytest.approx([0.8, 1, 1.5])
    assert down_slope.tolist() == pytest.approx([0, 1, 1.5])


class Ratios(PolicyObjective):
    """PPO's clipped loss, or what a misprint makes of it."""

    requires = frozenset({"old_log_probs"})
    implements = "ppo_clip"
    clip: float = 0.2

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        ratio = (batch.log_probs - batch.old_log_probs.detach()).where(batch.valid, 0).exp()
        advantages = batch.advantages.detach().where(batch.valid, 0)
        return Loss(self.formula(ratio, ratio.clamp(1 - self.clip, 1 + self.clip), advantages))

    def formula(self, ratio: Tensor, held: Tensor, advantages: Tensor) -> Tensor:
        return -torch.minimum(ratio * advantages, held * advantages)


class Right(Ratios):
    name = "right"


class Minimum(Ratios):
    """E17: L_POLICY = min(...), to be minimised."""

    name = "printed_policy_loss"

    def formula(self, ratio: Tensor, held: Tensor, advantages: Tensor) -> Tensor:
        return torch.minimum(ratio * advantages, held * advantages)


class ProductInside(Ratios):
    """E32: the product ρA is taken as it is where it lies in [1 - ε, 1 + ε], else the clipped one."""

    name = "printed_product_inside"

    def formula(self, ratio: Tensor, held: Tensor, advantages: Tensor) -> Tensor:
        product = ratio * advantages
        inside = (product >= 1 - self.clip) & (product <= 1 + self.clip)
        return -torch.where(inside, product, held * advantages)


class BothSides(Ratios):
    """E33: a ratio that is too large or too small is replaced, whatever the sign of A."""

    name = "printed_both_sides"

    def formula(self, ratio: Tensor, held: Tensor, advantages: Tensor) -> Tensor:
        return -held * advantages


def test_e17_the_minimum_is_an_objective_and_its_negative_the_loss() -> None:
    better = torch.tensor([1.0])
    assert losses(Minimum(), better, better)[1].item() == 1  # descent would make a good action rarer
    assert losses(PPO, better, better)[1].item() == -1
    laws = ("higher-advantage-pushes-up", "is-ppo-clip", "on-policy-gradient", "unbiased-on-policy")
    assert broken(Minimum(), *laws) == sorted(laws)
    assert not broken(Right(), *laws) and not broken(PPO, *laws)
    world = bandit(1, 0)
    assert gradient(world, fair(world), make("monte_carlo", gamma=1.0), objective="ppo_clip").cosine > 1 - 1e-12
    printed = gradient_error(world, fair(world), make("monte_carlo", gamma=1.0), Minimum(), None, 1)
    assert printed.cosine < -1 + 1e-12


def test_e32_the_ratio_is_compared_and_not_the_product() -> None:
    # ε = 0.2 and ρ = 1.5, to be clipped for A = 0.7 and not for A = -0.7; 1.5 · 0.7 = 1.05 is inside, -1.05 is not.
    ratios, advantages = torch.tensor([1.5, 1.5]), torch.tensor([0.7, -0.7])
    printed, right = (losses(each, ratios, advantages)[1].tolist() for each in (ProductInside(), Right()))
    assert right == pytest.approx([0, 1.05])
    assert printed == pytest.approx([-1.05, 0])
    laws = ("clip-gradient-support", "inside-clip-is-importance-weighted", "is-ppo-clip")
    assert broken(ProductInside(), *laws) == sorted(laws)
    assert not broken(PPO, *laws)


def test_e33_a_step_that_went_the_wrong_way_keeps_its_gradient() -> None:
    ratios, advantages = torch.tensor([0.5, 1.5]), torch.tensor([1.0, -1])
    assert losses(BothSides(), ratios, advantages)[1].tolist() == [0, 0]
    assert losses(Right(), ratios, advantages)[1].tolist() == pytest.approx([-0.5, 1.5])
    laws = ("clip-gradient-support", "is-ppo-clip", "pessimistic-bound")
    assert broken(BothSides(), *laws) == sorted(laws)
    assert not broken(PPO, *laws)
