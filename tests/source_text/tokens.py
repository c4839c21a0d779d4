"""Averages over tokens, and the first update: C32, C33, E35."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf_lab.types import PolicyBatch, Trajectories
from rlhf_lab.worlds import TabularMDP
from source_text.clipping import PPO
from source_text.worlds import F64, POLICY, arms, bandit, create, gradient, losses, make, noise, three_steps


def lengths() -> tuple[Tensor, Tensor]:
    """Return ``valid`` and ``ends`` of one response of one token and one of three."""
    valid = torch.tensor([[True, False, False], [True, True, True]])
    return valid, torch.tensor([[True, False, False], [False, False, True]])


@pytest.mark.parametrize(
    ("aggregation", "short", "long"),
    [
        ("token_mean", 1 / 4, 1 / 4),  # 1 / all tokens
        ("sequence_mean", 1 / 2, 1 / 6),  # 1 / (responses · own length)
        ("sequence_sum", 1 / 2, 1 / 2),  # 1 / responses
        ("constant", 1 / 16, 1 / 16),  # 1 / (responses · 8)
    ],
)
def test_c32_what_a_token_weighs_depends_on_what_is_meant_by_the_average(
    aggregation: str, short: float, long: float
) -> None:
    parameters = {"length": 8.0} if aggregation == "constant" else {}
    answer = create("aggregation", aggregation, **parameters)(*lengths())
    weights = answer.weights / answer.total.sum()
    torch.testing.assert_close(weights, torch.tensor([[short, 0, 0], [long] * 3], dtype=F64), rtol=0, atol=1e-15)


def test_c32_averages_over_responses_of_unequal_length_have_other_gradients() -> None:
    # State 0: action 0 ends, action 1 goes on to state 1, where both end. The expected gradient of a batch of two
    # responses is ∇J for the mean of sums; the other averages lean towards one length.
    transition = torch.zeros(3, 2, 3)
    transition[0, 0, 2] = transition[0, 1, 1] = transition[1, :, 2] = 1
    at = torch.arange(3)
    world = TabularMDP(transition, noise(3, 2, 3, seed=8), at == 0, at == 2)
    policy = noise(3, 2, seed=9).softmax(-1)

    def found(aggregation: str) -> Tensor:
        average = create("aggregation", aggregation)
        return gradient(world, policy, make("monte_carlo", gamma=1.0), samples=2, aggregation=average).expected

    true = world.policy_gradient(policy).flatten()
    torch.testing.assert_close(found("sequence_sum"), true, rtol=0, atol=1e-14)
    torch.testing.assert_close(found("constant"), true, rtol=0, atol=1e-14)  # divided by 1
    directions = [x / x.norm() for x in map(found, ("sequence_sum", "sequence_mean", "token_mean"))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert float(directions[one] @ directions[other]) < 0.999


def first_update(normalizer: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the losses of the first PPO step, their derivatives, those of REINFORCE, and the advantages."""
    world = three_steps()
    steps: Trajectories = world.enumerate(POLICY, 3).with_values(world.state_values(POLICY)).trajectories
    assert steps.log_probs is not None
    raw = make("gae", gamma=1.0, lam=0.9)(steps)
    advantages = create("normalizer", normalizer)(steps, raw).advantages
    answers = []
    for name in ("ppo_clip", "reinforce"):
        live = steps.log_probs.clone().requires_grad_()
        batch = PolicyBatch(live, advantages, steps.valid, steps.terminated, old_log_probs=steps.log_probs)
        values = create("objective", name)(batch).values
        answers.append((values.detach(), torch.autograd.grad(values.mean(), live)[0]))
    return answers[0][0], answers[0][1], answers[1][1], advantages


@pytest.mark.parametrize("normalizer", ["none", "batch"])
def test_c33_the_first_step_has_ratio_one_loss_minus_the_advantage_and_reinforces_gradient(normalizer: str) -> None:
    values, slopes, reinforce, advantages = first_update(normalizer)
    torch.testing.assert_close(values, -advantages, rtol=0, atol=0)
    torch.testing.assert_close(slopes, reinforce, rtol=0, atol=1e-18)
    assert float(slopes.abs().min()) > 0


def test_c33_e35_a_loss_of_zero_has_a_gradient_and_a_loss_without_gradient_is_not_zero() -> None:
    values, slopes, _, _ = first_update("batch")
    assert float(values.mean()) == pytest.approx(0, abs=1e-15)  # whitened advantages sum to zero, as do the losses
    assert float(slopes.abs().sum()) > 0.5
    plain, _, _, _ = first_update("none")
    assert abs(float(plain.mean())) > 0.01

    # scores less their group's mean sum to zero as well: (1, 0, 5) has (-1, -2, 3)
    one = torch.ones(3, 1, dtype=torch.bool)
    scores = torch.tensor([[1.0], [0], [5]], dtype=F64)
    group = Trajectories(scores, one, ~one, one, group_ids=torch.zeros(3, dtype=torch.int64))
    centred = make("grpo_mean")(group).advantages[:, 0]
    found, gradients = losses(PPO, torch.ones(3), centred)
    assert (found.tolist(), gradients.tolist()) == ([1, 2, -3], [1, 2, -3])
    assert float(found.sum()) == 0

    # A = 3 everywhere: every loss is -3, and E[3 ∇log π] = 0
    world = bandit(0, 0, 0)
    constant = gradient(world, arms(0.5, 0.25, 0.25), make("constant_baseline", gamma=1.0, baseline=-3.0))
    assert float(constant.expected.norm()) < 1e-15
    three = torch.full((3,), 3.0)
    assert losses(PPO, torch.ones(3), three)[0].tolist() == [-3] * 3
