"""The ``exact_gradient`` loop: its gradient, its optimum, the reward that it climbs, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_rankings import NumberPolicy, Numbers
from learning import check_bits, learner, trained

from rlhf_lab.errors import LabError
from rlhf_lab.study.measures import policy_table

WORLD: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2, "beta": 0.5},
    "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 0.5},
    "trainer": "exact_gradient",
    "optimizer": {"name": "sgd", "lr": 1.0},
    "gamma": 1.0,
}


def test_one_step_of_sgd_is_the_exact_gradient_of_the_regularised_objective() -> None:
    # the KL's gradient is that of paying -β log(π / π_ref) with each response, as E ∇log π = 0; hence ∇J is the policy
    # gradient theorem's sum for the reward r - β log(π / π_ref), which the world computes state by state
    found = learner(WORLD)
    for _ in range(3):
        world = found.environment.exact()
        policy = policy_table(found.actor, world)
        reference = found.actor.reference["logits"].softmax(-1)
        ratio = world.response_log_probs(policy) - world.response_log_probs(reference)
        expected = replace(world, reward=world.reward - 0.5 * ratio).policy_gradient(policy)
        before = found.actor.logits.detach().clone()
        metrics = found.step(0.0)
        torch.testing.assert_close(found.actor.logits.detach() - before, expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(metrics["loss"], -world.objective(policy, reference, 0.5), atol=1e-12, rtol=0)
        torch.testing.assert_close(metrics["kl"], world.kl(policy, reference), atol=1e-12, rtol=0)
        torch.testing.assert_close(metrics["paid_return"], world.expected_return(policy), atol=1e-12, rtol=0)


def test_it_ends_at_the_tilted_reference() -> None:
    data = WORLD | {"environment": {"name": "sequences", "vocabulary": 3, "length": 1, "prompts": 2, "beta": 1.0}}
    found, _ = trained(data | {"trainer": {"name": "exact_gradient", "updates": 600}}, 1)
    reference = found.actor.reference["logits"][:, :2].softmax(-1)  # of length 1: a state per prompt
    tilted = reference * found.environment.true_rewards.exp()
    optimum = tilted / tilted.sum(-1, keepdim=True)
    torch.testing.assert_close(found.actor.logits.detach()[:, :2].softmax(-1), optimum, atol=1e-6, rtol=0)


def test_a_price_of_its_own_replaces_the_environment_s() -> None:
    _, (free,) = trained(WORLD | {"trainer": {"name": "exact_gradient", "beta": 0.0, "updates": 50}}, 1)
    _, (held,) = trained(WORLD | {"trainer": {"name": "exact_gradient", "updates": 50}}, 1)
    assert (free["kl"] > held["kl"]).all() and (free["paid_return"] > held["paid_return"]).all()
    torch.testing.assert_close(free["loss"], -free["paid_return"])


def test_it_climbs_what_is_paid_not_what_is_true() -> None:
    environment = WORLD["environment"] | {"proxy": {"name": "random_reward", "scale": 3.0}}
    found, metrics = trained(
        WORLD | {"environment": environment, "trainer": {"name": "exact_gradient", "beta": 0.0}}, 60
    )
    paid, true = found.environment.paid_rewards, found.environment.true_rewards
    probabilities = found.environment.exact().response_probs(policy_table(found.actor, found.environment.exact()))
    assert not torch.equal(paid, true)
    assert (
        (probabilities * paid).sum(-1).mean(-1) > metrics[-1]["paid_return"]
    ).all()  # it was measured before the last step
    assert ((probabilities * paid).sum(-1) > paid.mean(-1) + 1).all()


@pytest.mark.parametrize("policy", ["linear_features", "transformer", "tabular_softmax"])
def test_every_policy_that_scores_responses_can_climb(policy: str) -> None:
    found = learner(WORLD | {"policy": policy, "optimizer": {"name": "adam", "lr": 0.02}})
    metrics = [found.step(0.0) for _ in range(12)]
    assert (metrics[-1]["loss"] < metrics[0]["loss"]).all()


def test_a_run_s_bits_depend_on_nothing_else() -> None:
    check_bits(WORLD | {"optimizer": "adam", "trainer": {"name": "exact_gradient", "updates": 2}})


def test_steps_count_updates_and_episodes_count_prompts() -> None:
    _, metrics = trained(WORLD | {"trainer": {"name": "exact_gradient", "updates": 2}}, 4)
    assert metrics[-1]["steps"].tolist() == [8.0, 8.0] and metrics[-1]["episodes"].tolist() == [16.0, 16.0]


def test_a_world_whose_responses_are_not_known_is_refused() -> None:
    with pytest.raises(LabError, match="environment 'numbers': exact_gradient needs a world of token strings"):
        learner(WORLD | {"environment": Numbers(), "policy": NumberPolicy()})
