"""The named studies: each composes and runs; the exact ones are run whole and must reproduce what they test."""

import copy

import pytest

import rlhf_lab
from rlhf_lab.registry import load_plugins
from rlhf_lab.study.api import find_study, make_study
from rlhf_lab.study.conclusions import evaluate
from rlhf_lab.study.plan import make_plan

REGISTRY = load_plugins()
NAMES = [
    "bad-move-in-a-won-position",
    "bias-variance",
    "cartpole",
    "coach-or-records",
    "dpo-equals-rlhf",
    "family",
    "first-look",
    "first-update",
    "gradient-bandit",
    "krk-estimators",
    "likelihood-displacement",
    "material-or-mate",
    "overoptimisation",
    "pairs-or-rankings",
    "random-walk",
    "short-corridor",
    "two-ways",
]


def test_these_are_the_named_studies():
    assert sorted(REGISTRY.studies) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_composes_without_a_warning(name):
    _, data, where = find_study(name, REGISTRY)
    plan = make_plan(make_study(data, where), REGISTRY, where)
    assert [warning for stages in plan.specs for _, warnings in stages for warning in warnings] == []


@pytest.mark.parametrize(
    "name",
    [
        # half a minute: its world is that of pawn, queen and rook on 8 x 8, whatever is left out
        pytest.param(name, marks=pytest.mark.slow if name == "material-or-mate" else ())
        for name in NAMES
    ],
)
def test_a_small_version_runs(name):
    _, data, _ = find_study(name, REGISTRY)
    data = copy.deepcopy(data)
    first = next(iter(data["arms"]))
    data |= {"arms": {first: data["arms"][first]}, "grid": {}, "seeds": 2, "figures": [], "conclusions": []}
    data["scores"] = {
        name: {key: value for key, value in score.items() if key != "arms"}  # which name arms that are left out
        for name, score in data.get("scores", {}).items()
    }
    data["spec"] |= {"budget": {"iterations": 2}, "record_every": 1}
    results = rlhf_lab.compare(data, registry=REGISTRY)
    assert all(results.quantity(results.arms[0], score).shape == (2,) for score in results.study.scores)
    assert results.arms[0].curves or results.arms[0].exact


def test_the_family_is_every_loss_that_its_records_fit():
    _, data, _ = find_study("family", REGISTRY)
    losses = [arm["preference"] for arm in data["arms"].values()]
    shown = {loss if isinstance(loss, str) else loss["name"] for loss in losses}
    every = {loss.name for loss in REGISTRY.components("preference") if "@" not in loss.name}  # @: a peer's
    assert every - shown == {"rpo_reward_aware"}  # which needs to know by how much a reward is higher


@pytest.mark.parametrize("name", ["first-update", "bias-variance"])
def test_an_exact_study_reproduces_what_it_tests(name):
    _, data, _ = find_study(name, REGISTRY)
    if name == "bias-variance":
        data["grid"] = {"exact.critic_error": [0.0, 0.5]}
        data["figures"] = []
    results = rlhf_lab.compare(data, registry=REGISTRY)
    assert {finding.statement: finding.verdict for finding in evaluate(results)} == {
        conclusion.statement: "reproduced" for conclusion in results.study.conclusions
    }
    assert not any(arm.failed.any() for arm in results.arms)


def test_mirrored_rewards_have_the_variance_of_the_counterexample():
    # V = 0: the first step's GAE is (1 - lam) r_0 with r_0 = ±1, the second's is -r_0, known once the state is
    # known; averaged over the two visited steps the variance is (1 - lam)^2 / 2
    _, data, _ = find_study("bias-variance", REGISTRY)
    data |= {
        "arms": {"mirrored lam=0.25": data["arms"]["mirrored lam=0.25"]},
        "grid": {},
        "figures": [],
        "conclusions": [],
    }
    results = rlhf_lab.compare(data, registry=REGISTRY)
    assert results.arms[0].exact["variance"] == pytest.approx(0.75**2 / 2, abs=1e-12)
