"""How episodes end, exact values, signs of advantages and what is optimal for another reward, solved by hand.

Optimal: V*(0) = 1, V*(1) = max(1/2, 0.9 V*(0)) = 0.9. Uniform: V(0) = (1 + 0.9 V(1) + 0) / 3 and
V(1) = (1/2 + 0.9 V(0)) / 2, hence V(0) (1 - 0.135) = 1/3 + 0.075 and V(0) = 0.472062, V(1) = 0.462428.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy_endings import Toy, toy_world

from rlhf_lab import compare
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.exact_values import exact_values
from rlhf_lab.study.optimum_measures import advantage_signs
from rlhf_lab.worlds import TabularMDP
from rlhf_lab.worlds.greedy import best_actions, greedy_policy

REGISTRY = load_plugins()
V0 = (1 / 3 + 0.075) / (1 - 0.135)
V1 = (0.5 + 0.9 * V0) / 2
STATIC: dict[str, Any] = {"environment": Toy(), "policy": "tabular_softmax", "gamma": 0.9}
TRAINED: dict[str, Any] = STATIC | {
    "trainer": {"name": "online", "envs": 4, "steps": 8},
    "advantage": "gae",
    "objective": "reinforce",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "budget": {"iterations": 4},
}
SEQUENCES: dict[str, Any] = {
    "environment": {"name": "sequences", "vocabulary": 3, "length": 2, "prompts": 2},
    "policy": "tabular_autoregressive",
}


def arm(spec: dict[str, Any], *measure: str, seeds: int = 1) -> Any:
    return compare({"title": "t", "spec": spec, "seeds": seeds, "measure": list(measure)}).arms[0]


def test_ties_are_shared_and_illegal_actions_are_none() -> None:
    values = torch.tensor([[1.0, 1 - 1e-12, 0.5], [-torch.inf, -3, -2]], dtype=torch.float64)
    assert best_actions(values).tolist() == [[True, True, False], [False, False, True]]
    assert greedy_policy(values).tolist() == [[0.5, 0.5, 0], [0, 0, 1]]


# ---- ends


def test_ends_are_measured_along_a_run_with_their_levels() -> None:
    found = arm(TRAINED | {"optimizer": {"name": "sgd", "lr": 1e-12}}, "ends", seeds=2)
    # in both states the uniform policy wins and draws with equal chances: 1/3 in state 0 and 1/4 in state 1
    names = ["probability_of_win", "probability_of_draw", "steps_to_win", "steps_to_draw"]
    assert set(names) <= set(found.curves)
    assert found.curves["probability_of_win"].shape == (4, 2)
    np.testing.assert_allclose(found.curves["probability_of_win"], 0.5, atol=1e-6)
    # mean steps m0 = 1 + m1/3, m1 = 1 + m0/2: m0 = 8/5, m1 = 9/5, and ends are independent of the length
    np.testing.assert_allclose(found.curves["steps_to_draw"], 1.7, atol=1e-6)
    levels = found.references
    assert levels["probability_of_win"] == {"optimum": pytest.approx(1), "uniform": pytest.approx(0.5)}
    assert levels["steps_to_win"] == {"optimum": pytest.approx(1.5), "uniform": pytest.approx(1.7)}
    assert np.isnan(levels["steps_to_draw"]["optimum"])


def test_a_world_that_does_not_tell_its_ends_is_refused() -> None:
    with pytest.raises(LabError, match="measure: ends needs a world that tells how its episodes end"):
        arm(TRAINED | {"environment": "short_corridor"}, "ends")


# ---- values


def test_values_of_an_untrained_policy_by_hand() -> None:
    found = arm(STATIC, "exact_values").exact
    assert found["states"] == 2
    assert found["optimal_value"] == pytest.approx((1 + 0.9) / 2)
    assert found["initial_value"] == pytest.approx((V0 + V1) / 2, rel=1e-6)
    assert found["uniform_value"] == pytest.approx((V0 + V1) / 2, rel=1e-12)


def test_values_and_gradient_of_a_policy_by_hand() -> None:
    # 0: win or go to 1, equally likely; 1: gamble. V(1) = 1/2, V(0) = (1 + 0.45) / 2 = 0.725; d(0) = 1/2, where A is
    # ±0.275 of the two and the third is never taken; 1 is left by one action, which has A = 0.
    policy = torch.tensor([[0.5, 0.5, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]], dtype=torch.float64)
    found = exact_values(toy_world(), policy)
    assert found["initial_value"] == pytest.approx((0.725 + 0.5) / 2)
    assert found["uniform_value"] == pytest.approx((V0 + V1) / 2)
    assert found["gradient_norm"] == pytest.approx(0.5 * 0.5 * 0.275 * 2**0.5)


def test_values_in_a_world_of_token_strings_by_hand() -> None:
    # one token of three after each of two prompts, paid 1, 2, 3 and 1, 3, 2
    rewards = {"reward": {"name": "table_reward", "values": ((1, 2, 3), (1, 3, 2))}}
    found = arm(SEQUENCES | {"environment": SEQUENCES["environment"] | {"length": 1} | rewards}, "exact_values").exact
    assert (found["states"], found["optimal_value"]) == (2, 3)
    assert found["initial_value"] == pytest.approx(2, rel=1e-6)
    # d = 1/2 each, π = 1/3, A = -1, 0, 1 in some order: (1/6)² · 4
    assert found["gradient_norm"] == pytest.approx(1 / 3, rel=1e-6)


# ---- signs of advantages


def test_signs_of_advantages_by_hand() -> None:
    found = arm(STATIC, "advantage_signs").exact
    # uniform: Q(0,.) = 1, 0.9 V1 = 0.416, 0 and Q(1,.) = 0.5, 0.9 V0 = 0.425: A < 0 for two of three and for one of two
    # actions, none of them with Q > 1/2
    assert found["negative_advantage_initial"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["high_value_negative_advantage_initial"] == 0
    assert found["largest_advantage_initial"] == pytest.approx(1 - V0)
    assert found["smallest_advantage_initial"] == pytest.approx(-V0)
    # optimal: Q*(0,.) = 1, 0.81, 0 and Q*(1,.) = 0.5, 0.9: worse than V* are 0.81, 0 and 0.5, of which 0.81 is high
    assert found["negative_advantage_optimal"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["high_value_negative_advantage_optimal"] == pytest.approx(1 / 3 / 2)
    assert found["largest_advantage_optimal"] == pytest.approx(0, abs=1e-12)
    assert found["smallest_advantage_optimal"] == pytest.approx(-1)


def test_states_that_nothing_leads_to_do_not_count() -> None:
    # from state 0, rewards 1 and 0 end the episode; state 1, with 5 and 4, is never visited
    transition = torch.zeros(3, 2, 3)
    transition[:, :, 2] = 1
    reward = torch.tensor([[1.0, 0.0], [5.0, 4.0], [0.0, 0.0]])[..., None].expand(3, 2, 3)
    world = TabularMDP(transition, reward, torch.tensor([1.0, 0, 0]), torch.arange(3) == 2)
    found = advantage_signs(world, world.uniform_policy())
    assert found["high_value_negative_advantage_optimal"] == 0 and found["negative_advantage_optimal"] == 0.5
    assert found["smallest_advantage_optimal"] == -1


def test_where_nothing_can_be_won_no_value_is_high() -> None:
    with pytest.raises(LabError, match="needs a world where something can be won; its best value is -1"):
        arm(STATIC | {"environment": {"name": "grid_world", "walls": (5, 10)}}, "advantage_signs")


# ---- what is optimal for what is paid


def test_the_optimum_of_what_is_paid_by_hand() -> None:
    # paid 2 for giving up, the optimum draws at once from 0 and goes there from 1, as the true one does
    found = arm(STATIC, "paid_optimum").exact
    assert found["paid_optimum_differs"] == pytest.approx(0.5)
    assert found["paid_optimum_return"] == pytest.approx(0, abs=1e-12)
    assert found["paid_optimum_gap"] == pytest.approx((1 + 0.9) / 2)
    assert found["paid_optimum_probability_of_draw"] == pytest.approx(1)
    assert found["paid_optimum_probability_of_win"] == 0


def test_sequences_tell_what_they_pay() -> None:
    built = make_spec(SEQUENCES, REGISTRY)[0].environment.build(1, 1, Streams([0]))
    found = arm(SEQUENCES, "paid_optimum").exact
    assert isinstance(built.paid(), type(built.exact()))  # type: ignore[attr-defined]
    assert found["paid_optimum_gap"] == pytest.approx(0, abs=1e-12) and found["paid_optimum_differs"] == 0
    # one token pays truly 1, 2, 3 after the one prompt and 1, 3, 2 after the other; paid are 2, 1, 0 after both
    tables = {"reward": ((1, 2, 3), (1, 3, 2)), "proxy": ((2, 1, 0), (2, 1, 0))}
    rewards = {role: {"name": "table_reward", "values": values} for role, values in tables.items()}
    misled = arm(SEQUENCES | {"environment": SEQUENCES["environment"] | {"length": 1} | rewards}, "paid_optimum").exact
    assert misled == {"paid_optimum_differs": 1, "paid_optimum_return": 1, "paid_optimum_gap": 2}


def test_an_environment_that_does_not_tell_what_it_pays_is_refused() -> None:
    with pytest.raises(LabError, match="needs an environment that tells what it pays in training; this one does not"):
        arm(STATIC | {"environment": "short_corridor"}, "paid_optimum")
