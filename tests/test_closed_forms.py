"""Preference losses on the data of the whole population, learned by gradient steps: their optima in closed form.

Every pair of responses stands in the data in both orders, weighed by b(y) b(y') P(y beats y'), with P Bradley-Terry's
for the reward r at temperature T. Policies are tables in float64, so that any distribution is possible.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.measures import policy_table
from rlhf_lab.study.runner import start

REGISTRY = load_plugins()
UPDATES = 400
TOLERANCE = 1e-6  # in probability


def learned(
    preference: dict[str, Any], environment: dict[str, Any], lr: float, **changes: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Return learned and reference probabilities of all responses, and the rewards, ``[runs, x, y]`` each."""
    data = {
        "environment": {"name": "sequences", **environment},
        "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 0.5},
        "trainer": {"name": "offline", "updates": UPDATES},
        "data": "population",
        "preference": preference,
        "optimizer": {"name": "sgd", "lr": lr},
        "gamma": 1.0,
    }
    found: Any = start(make_spec({**data, **changes}, REGISTRY)[0], [0, 1])
    world = found.environment.exact()
    reference = world.response_probs(policy_table(found.actor, world))
    found.step(0.0)
    return world.response_probs(policy_table(found.actor, world)), reference, world.reward


def tilted(reference: Tensor, exponent: Tensor) -> Tensor:
    weight = reference * exponent.exp()
    return weight / weight.sum(-1, keepdim=True)


TREE = {"vocabulary": 2, "length": 2, "prompts": 2}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dpo_tilts_the_reference_by_the_reward(temperature: float) -> None:
    # the labels' likelihood is largest where beta log(pi / pi_ref) is r / T up to a constant per prompt
    data = {"name": "population", "temperature": temperature}
    policy, reference, reward = learned({"name": "dpo", "beta": 0.5}, TREE, 30.0, data=data)
    expected = tilted(reference, reward / (0.5 * temperature))
    torch.testing.assert_close(policy, expected, atol=TOLERANCE, rtol=0)


def test_dpo_on_rankings_tilts_the_reference_by_the_reward() -> None:
    data = {"name": "population", "candidates": 3}
    preference = {"name": "dpo", "beta": 0.5, "likelihood": "plackett_luce"}
    policy, reference, reward = learned(preference, TREE, 15.0, data=data)
    torch.testing.assert_close(policy, tilted(reference, reward / 0.5), atol=TOLERANCE, rtol=0)


def test_ipo_tilts_the_reference_by_the_probability_to_win() -> None:
    # the square's minimum: h(y) - h(y') averaged over y' ~ b is (P(y beats b) - 1/2) / beta, as the weights are
    # products; hence log(pi / pi_ref) = P(y beats y' ~ b) / beta up to a constant (Azar et al. 2023, section 4.1)
    data = {"name": "population", "behaviour": "uniform"}
    policy, reference, reward = learned({"name": "ipo", "beta": 0.5}, TREE, 0.5, data=data)
    wins = torch.sigmoid(reward[..., :, None] - reward[..., None, :]).mean(-1)
    torch.testing.assert_close(policy, tilted(reference, wins / 0.5), atol=TOLERANCE, rtol=0)


def test_cdpo_of_two_responses_expects_flipped_labels() -> None:
    # with P(y beats y') = p and flips at rate e the labels say q = p (1 - e) + (1 - p) e: beta h = logit q
    two = {"vocabulary": 2, "length": 1, "prompts": 3}
    policy, reference, reward = learned({"name": "cdpo", "beta": 0.5, "label_smoothing": 0.2}, two, 30.0)
    p = torch.sigmoid(reward[..., 0] - reward[..., 1])
    ratio = torch.logit(p * 0.8 + (1 - p) * 0.2) / 0.5
    expected = tilted(reference, torch.stack([ratio, torch.zeros_like(ratio)], dim=-1))
    torch.testing.assert_close(policy, expected, atol=TOLERANCE, rtol=0)


def test_dpo_is_a_reward_model_and_exact_optimisation_in_one_step() -> None:
    # C37: beta log(pi / pi_ref) of the DPO optimum is the reward model's score, up to a constant per prompt
    policy, reference, _ = learned({"name": "dpo", "beta": 0.5}, TREE, 30.0)
    data = {
        "environment": {"name": "sequences", **TREE},
        "policy": {"name": "tabular_autoregressive", "precision": "float64"},
        "trainer": {"name": "reward_model", "updates": UPDATES},
        "data": {"name": "population", "behaviour": "uniform"},  # the optimum is the same whatever full coverage weighs
        "reward_model": "bradley_terry",
        "optimizer": {"name": "sgd", "lr": 5.0},
        "gamma": 1.0,
    }
    model: Any = start(make_spec(data, REGISTRY)[0], [0, 1])
    model.step(0.0)
    scores = model.actor.rewards(model.environment.all_responses()).detach()
    torch.testing.assert_close(policy, tilted(reference, scores / 0.5), atol=TOLERANCE, rtol=0)
