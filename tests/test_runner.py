"""One arm's run: budgets that seeds spend at their own speed, what is recorded, and what ends a run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rlhf_lab import compare, hookimpl, run
from rlhf_lab.components import Policy
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start

REGISTRY = load_plugins()
CORRIDOR: dict[str, Any] = {
    "environment": "short_corridor",
    "policy": {"name": "linear_softmax", "critic": False},
    "trainer": {"name": "online", "episodes": 1},
    "advantage": "monte_carlo",
    "objective": "reinforce",
    "aggregation": "sequence_sum",
    "optimizer": {"name": "sgd", "lr": 0.01, "schedule": "linear"},
    "gamma": 1.0,
    "budget": {"steps": 400},
}
BANDIT: dict[str, Any] = {
    "environment": {"name": "bandit", "arms": 3},
    "policy": {"name": "tabular_softmax", "critic": False},
    "trainer": {"name": "online", "envs": 4, "steps": 1},
    "advantage": "monte_carlo",
    "objective": "reinforce",
    "optimizer": {"name": "sgd", "lr": 0.5},
    "budget": {"iterations": 10},
}


def arm(spec: dict[str, Any], seeds: list[int], *measure: str, **options: Any) -> Any:
    """Return the only arm of a study."""
    study = {"title": "t", "spec": spec, "arms": {"only": {}}, "seeds": seeds, "measure": list(measure)}
    return compare(study, **options).arms[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_seed_ends_where_its_own_budget_does_whatever_runs_beside_it(optimizer: str) -> None:
    # episodes have different lengths, so seeds need different numbers of iterations for 400 steps
    spec = CORRIDOR | {"optimizer": {"name": optimizer, "lr": 0.01, "schedule": "linear"}}
    alone, beside = arm(spec, [0], "learning_curve"), arm(spec, [3, 0, 1, 2], "learning_curve")
    assert np.array_equal(alone.weights["theta"][0], beside.weights["theta"][1])
    for name, curve in alone.curves.items():
        n = len(curve)
        assert n < len(beside.curves[name])
        np.testing.assert_array_equal(curve[:, 0], beside.curves[name][:n, 1], err_msg=name)
        np.testing.assert_array_equal(beside.curves[name][n:, 1], np.full(len(beside.curves[name]) - n, curve[-1, 0]))


def test_regret_counts_the_policy_of_every_iteration_whatever_is_recorded() -> None:
    often, seldom = (arm(BANDIT | {"record_every": n}, [0, 1], "regret") for n in (1, 5))
    np.testing.assert_allclose(often.curves["regret"][[4, 9]], seldom.curves["regret"], rtol=1e-12)
    # the first iteration acts with equal probabilities: its gap is the best mean less the mean of all means
    learner = start(make_spec(BANDIT, REGISTRY)[0], [0, 1])
    means = learner.environment.exact().optimal_action_values()[:, 0]  # type: ignore[union-attr]
    np.testing.assert_allclose(often.curves["regret"][0], means.amax(-1) - means.mean(-1), atol=1e-6)


def test_group_estimators_are_not_measured_one_episode_at_a_time() -> None:
    spec = {
        "environment": "short_corridor",
        "policy": CORRIDOR["policy"],
        "advantage": "grpo",
        "objective": "reinforce",
    }
    with pytest.raises(LabError, match=r"exact.samples: advantage 'grpo' compares the episodes of a group; give 2"):
        arm(spec, [0], "gradient_error")


def test_what_an_exact_world_refuses_is_told_with_the_arm_s_name() -> None:
    spec = {"environment": "short_corridor", "policy": CORRIDOR["policy"], "advantage": "td", "exact": {"horizon": 40}}
    with pytest.raises(LabError, match=r"^arm 'only': "):
        arm(spec, [0], "estimator_error")


def test_the_error_of_a_critic_is_that_of_states_that_can_be_visited() -> None:
    # values begin at 0, so the error is the root mean square of V over the reachable cells that do not end an episode
    spec = BANDIT | {
        "environment": {"name": "grid_world", "walls": (5, 10), "max_steps": 20},
        "policy": "tabular_softmax",
        "optimizer": {"name": "sgd", "lr": 1e-12},
        "budget": {"iterations": 1},
        "gamma": 0.9,
    }
    found = arm(spec, [0], "value_error").curves["value_error"][-1, 0]
    world = start(make_spec(spec, REGISTRY)[0], [0]).environment.exact()
    values = world.state_values(world.uniform_policy())  # type: ignore[union-attr]
    cells = [cell for cell in range(1, 15) if cell not in (5, 10)]
    assert found == pytest.approx(float(values[cells].square().mean().sqrt()), rel=1e-6)


def test_an_arm_that_cannot_be_built_is_refused_before_another_runs(tmp_path: Path) -> None:
    study = {
        "title": "t",
        "spec": BANDIT,
        "arms": {"good": {}, "bad": {"environment": "cartpole"}},  # a table has no use for vectors
        "seeds": 2,
    }
    with pytest.raises(LabError, match="arm 'bad': tabular_softmax needs finitely many states"):
        compare(study, out=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_measure_that_needs_the_truth_is_refused_before_anything_runs() -> None:
    spec = BANDIT | {"environment": "cartpole", "policy": "linear_softmax"}
    with pytest.raises(LabError, match="regret needs a world whose exact values are known"):
        arm(spec, [0], "regret")


class Unbuilt(Policy):
    """A policy whose author forgot something."""

    name = "unbuilt"

    def build(self, spaces: Any, runs: int, streams: Any) -> Any:
        return {}["weights"]


def test_a_plugin_s_own_error_is_told_with_its_line() -> None:
    plugin = ModuleType("unbuilt_plugin")
    plugin.rlhf_lab_components = hookimpl(lambda: [Unbuilt])  # type: ignore[attr-defined]
    with pytest.raises(LabError, match=r"arm 'only': KeyError: 'weights' \(test_runner.py:\d+\)"):
        arm(BANDIT | {"policy": "unbuilt"}, [0], "learning_curve", plugins=[plugin])


def test_stages_of_a_run_are_refused_by_their_own_name() -> None:
    with pytest.raises(LabError, match=r"^stages: expected {name: overrides, ...}, found \['a'\]"):
        run(BANDIT | {"stages": ["a"]})


def test_settings_of_exact_measures_without_one_are_refused() -> None:
    with pytest.raises(
        LabError, match="exact: nothing here is measured exactly; measure estimator_error, gradient_error"
    ):
        arm(BANDIT | {"exact": {"horizon": 3}}, [0], "learning_curve")
