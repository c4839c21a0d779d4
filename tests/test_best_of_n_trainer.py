"""The trainer that answers with the best of n: exact distributions, and the true reward beside the paid one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from learning import trained

from rlhf_lab.errors import LabError
from rlhf_lab.study.api import compare
from rlhf_lab.study.report.tables import score_tables

REWARDS = [0.3, -1.0, 2.0, 0.9]
TRUTH = {"name": "table_reward", "values": REWARDS}


def study(spec: Mapping[str, Any], measure: list[str]) -> Mapping[str, Any]:
    common = {
        "environment": {
            "name": "sequences",
            "vocabulary": 2,
            "length": 2,
            "reward": {"name": "table_reward", "values": REWARDS},
        },
        "policy": {"name": "tabular_autoregressive", "precision": "float64", "scale": 1.0},
        "trainer": {"name": "best_of_n", "growth": 2.0},
        "gamma": 1.0,
        "budget": {"iterations": 3},
    }
    return {"title": "best of n", "spec": {**common, **spec}, "measure": measure, "seeds": 3}


def test_the_expected_reward_is_that_of_the_best_of_n_draws() -> None:
    # n = 2, 4: every n-tuple of responses with its probability, the tuple's largest reward
    found = compare(study({}, ["learning_curve"])).arms[0]
    uniform = compare(study({"policy": {"name": "tabular_autoregressive", "precision": "float64"}}, ["learning_curve"]))
    for point, n in ((0, 2), (1, 4)):
        tuples = list(itertools.product(REWARDS, repeat=n))
        expected = sum(map(max, tuples)) / len(tuples)
        assert uniform.arms[0].curves["exact_return"][point] == pytest.approx([expected] * 3, abs=1e-12)
    assert (np.diff(found.curves["exact_return"], axis=0) > 0).all()  # and grows with n, whatever the first policy


@pytest.mark.parametrize(("growth", "iterations"), [(1e100, 5), (1.25, 3200)])
def test_of_more_responses_than_floats_count_the_best_one_is_always_answered(growth: float, iterations: int) -> None:
    # 1e100^3 = 1e300 and 1.25^3096 > 1e300, where n stays. Every answer is the best one: its KL to the uniform first
    # policy is log 4, and it wins unless the other one is the best too, half of which counts: 1 - 1/8
    spec = {**study({}, [])["spec"], "policy": {"name": "tabular_autoregressive", "precision": "float64"}}
    found, metrics = trained(spec | {"trainer": {"name": "best_of_n", "growth": growth}}, iterations)
    states = torch.arange(len(found.world.terminal)).expand(2, -1)
    chosen = found.world.response_probs(found.actor.action_log_probs(states).exp())[:, 0]
    assert chosen.flatten().tolist() == pytest.approx([0, 0, 1, 0] * 2, abs=1e-15)
    log_n = np.minimum(np.log(growth) * np.arange(1, iterations + 1), 300 * np.log(10))
    assert [float(x["log_n"][0]) for x in metrics] == pytest.approx(log_n)
    last = {name: float(x[0]) for name, x in metrics[-1].items()}
    assert last["kl_slack"] == pytest.approx(log_n[-1] - 1 - np.log(4))
    assert last["win_slack"] == pytest.approx(1 / 8)
    assert last["episodes"] == 1e300


def test_the_laws_of_best_of_n_are_bounds_on_few_responses() -> None:
    arm = compare(study({}, ["learning_curve"])).arms[0]
    assert (arm.curves["kl_slack"] > 0).all()
    assert (arm.curves["win_slack"] > 0).all()
    assert arm.curves["log_n"][:, 0] == pytest.approx(np.log([2, 4, 8]))


def test_the_truth_is_measured_beside_what_is_paid() -> None:
    # the proxy is the truth turned round: what is gained of it is lost of the truth
    environment = {
        "name": "sequences", "vocabulary": 2, "length": 2,
        "reward": TRUTH,
        "proxy": {"name": "table_reward", "values": [-r for r in REWARDS]},
    }  # fmt: skip
    arm = compare(study({"environment": environment}, ["overoptimisation"])).arms[0]
    assert (arm.curves["paid_gain"] > 0).all()
    assert arm.curves["true_gain"] == pytest.approx(-arm.curves["paid_gain"], abs=1e-12)
    # KL(pi_2 || pi) <= log 2 - 1/2, of which sqrt_kl is the root
    assert (arm.curves["sqrt_kl"][0] ** 2 < np.log(2) - 0.5).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"policy": "linear_features"}, "policy 'linear_features': best_of_n sets every probability on its own"),
        ({"environment": "short_corridor", "policy": "tabular_softmax"}, "needs a world of token strings"),
    ],
)
def test_what_cannot_be_every_distribution_is_refused(spec: Mapping[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        compare(study(spec, ["learning_curve"]))


def test_arms_that_differ_in_what_is_paid_are_judged_in_one_table() -> None:
    proxy = {"name": "reward_error", "scale": 3.0}
    plain = study({}, ["learning_curve"])
    found = compare({**plain, "arms": {"truth": {}, "proxy": {"environment.proxy": proxy}}})
    assert [[row.arm.name for row in table.rows] for table in score_tables(found)] == [["truth", "proxy"]]


def test_a_score_may_be_one_of_some_arms_only() -> None:
    learned = {"trainer": "exact_gradient", "optimizer": "sgd"}
    scores = {"slack": {"metric": "kl_slack", "arms": ["best"]}, "return": {"metric": "exact_return"}}
    plain = study({}, ["learning_curve"])
    found = compare({**plain, "arms": {"best": {}, "learned": learned}, "scores": scores})
    assert [[row.arm.name for row in table.rows] for table in score_tables(found)] == [["best"], ["best", "learned"]]
    with pytest.raises(LabError, match="arm 'learned' has no metric 'kl_slack'"):
        compare({**plain, "arms": {"best": {}, "learned": learned}, "scores": {"slack": {"metric": "kl_slack"}}})
    with pytest.raises(LabError, match=r"scores.slack.arms: no arm matches 'bset'. Did you mean 'best'\?"):
        compare({**plain, "arms": {"best": {}}, "scores": {"slack": {"metric": "kl_slack", "arms": ["bset"]}}})
