"""Baselines, and what makes one: C13, C14, E11, E12."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from dense_scores import softmax_scores

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab.worlds import estimator_error
from source_text.worlds import F64, POLICY, WRONG, bandit, broken, gradient, make, noise, three_steps


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
    conventions: ClassVar = {"gamma": 1.0}
    requires = frozenset({"log_probs"})

    def __call__(self, batch: Trajectories) -> Advantages:
        assert batch.log_probs is not None
        returns = batch.rewards.flip(-1).cumsum(-1).flip(-1)
        return Advantages((returns - batch.log_probs) * batch.valid)


def test_c13_e11_a_baseline_of_the_state_is_unbiased_and_one_of_the_action_is_not() -> None:
    assert gradient(three_steps(), POLICY, make("value_baseline", gamma=1.0), WRONG).bias < 1e-14
    assert gradient(three_steps(), POLICY, ActionBaseline()).bias > 0.1
    assert broken(ActionBaseline(), "unbiased-gradient")
    assert not broken(make("value_baseline", gamma=1.0), "unbiased-gradient")


def test_c14_e12_return_minus_value_is_the_advantage_in_the_mean_only() -> None:
    world, estimator = three_steps(), make("value_baseline", gamma=1.0)
    values = world.state_values(POLICY)
    true = estimator_error(world, POLICY, estimator, values, 3)
    assert true.bias < 1e-14
    assert true.variance > 0.1  # one sample is not the advantage
    wrong = estimator_error(world, POLICY, estimator, WRONG, 3)
    shift = torch.where(wrong.visits > 0, (values - WRONG)[:, None], 0)
    torch.testing.assert_close(wrong.cell_bias, shift, rtol=0, atol=1e-14)  # nor is G - b, unless b = V
    torch.testing.assert_close(wrong.cell_variance, true.cell_variance)
    assert gradient(world, POLICY, estimator, WRONG).bias < 1e-14  # and yet the gradient is exact
    assert broken(make("constant_baseline", gamma=1.0, baseline=1.0), "unbiased-advantages")
    assert not broken(estimator, "unbiased-advantages")
