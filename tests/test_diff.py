"""Where two components differ: the smallest input, equal parameters, both answers."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import Field

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.conformance import diff
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Advantages, Refused, clean

REGISTRY = load_plugins()
GAE, TD, TD_LAMBDA = (REGISTRY.get("advantage", name) for name in ("gae", "td", "td_lambda"))


class Rewards(AdvantageEstimator):
    name = "rewards"
    gamma: float = Field(default=0.9, ge=0, le=1)

    def __call__(self, batch):
        return Advantages(clean(batch.rewards, batch.valid), None)


class HalfWhereLarge(Rewards):
    """Differs from ``Rewards`` where gamma is 1 and a reward is above 2."""

    name = "half_where_large"

    def __call__(self, batch):
        rewards = clean(batch.rewards, batch.valid)
        large = (rewards > 2) & (self.gamma == 1)
        return Advantages(torch.where(large, rewards / 2, rewards), None)


class Raises(Rewards):
    name = "raises"

    def __call__(self, batch):
        raise RuntimeError("not today")


class RefusesSeveralRows(Rewards):
    name = "refuses_several_rows"

    def __call__(self, batch):
        if len(batch.rewards) > 1:
            raise Refused("one row only")
        return Advantages(clean(batch.rewards, batch.valid) * 2, None)


def test_the_smallest_input_is_found():
    found = diff(GAE, TD, examples=30)
    assert found is not None
    assert {name: len(x) for name, x in found.inputs.items() if name != "truncated"} == {
        "rewards": 2, "terminated": 2, "values": 2, "next_values": 2,
    }  # fmt: skip
    assert found.answers[0].startswith("A[0] = ")
    assert found.answers[1].startswith("A[0] = ")
    assert found.parameters[0]["gamma"] == found.parameters[1]["gamma"]


def test_equal_parameters_are_searched():
    found = diff(Rewards, HalfWhereLarge, examples=60)
    assert found is not None
    assert found.parameters == ({"gamma": 1.0}, {"gamma": 1.0})
    assert len(found.inputs["rewards"]) == 1
    assert found.answers == (f"A[0] = {found.inputs['rewards'][0]:g}", f"A[0] = {found.inputs['rewards'][0] / 2:g}")


def test_a_class_takes_the_parameters_of_an_instance():
    assert diff(GAE(lam=0, gamma=0.5), TD, examples=20) is None
    assert diff(TD, GAE(lam=0, gamma=0.5), examples=20) is None
    assert diff(GAE(lam=0, gamma=0.5), TD(gamma=0.25), examples=20) is not None


def test_equal_components_do_not_differ():
    assert diff(GAE, TD_LAMBDA, examples=30) is None


def test_no_answer_differs_from_an_answer():
    found = diff(Rewards, Raises, examples=5)
    assert found is not None
    assert found.answers[0] == "an answer"
    assert "raised RuntimeError: not today" in found.answers[1]
    assert diff(Raises, Raises, examples=5) is None


def test_what_one_refuses_is_not_compared():
    found = diff(Rewards, RefusesSeveralRows, examples=20)
    assert found is not None
    assert len(found.inputs["rewards"]) == 1


def test_the_same_seed_finds_the_same():
    assert diff(GAE, TD, examples=20, seed=5) == diff(GAE, TD, examples=20, seed=5)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (("advantage", "td"), ("kl", "k1"), "'td' is of role advantage, 'k1' of role kl; only components of one role"),
        (("kl", "k1"), ("kl", "full"), "takes whole distributions, the other does not"),
        (("environment", "bandit"), ("environment", "bandit"), "does no math that could be verified"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, says):
    with pytest.raises(LabError, match=says):
        diff(REGISTRY.get(*first), REGISTRY.get(*second))


def test_the_command_prints_both_answers(command):
    code, out, _ = command("diff", "gae", "td", "--examples", "20")
    lines = out.splitlines()
    assert code == 1
    assert lines[0] == "gae and td differ"
    assert lines[1].startswith("  smallest  rewards=[0, 0] ")
    assert lines[2].startswith("  gae       A[0] = ")
    assert "lam=0.95" in lines[2]
    assert lines[3].startswith("  td        A[0] = ")


def test_the_command_takes_parameters_and_exits_with_0_without_a_difference(command):
    code, out, _ = command("diff", "gae,lam=0", "td", "--examples", "20")
    assert (code, out) == (0, "no difference between gae,lam=0 and td found in 20 cases\n")


def test_the_command_prints_json(command):
    code, out, _ = command("diff", "token_mean", "sequence_mean", "--examples", "30", "--json")
    found = json.loads(out)
    assert code == 1
    assert set(found["difference"]) == {"inputs", "a", "b"}
    assert found["difference"]["a"]["answer"].startswith("share[")
    code, out, _ = command("diff", "k1", "k1", "--examples", "3", "--json")
    assert (code, json.loads(out)["difference"]) == (0, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gae", "tdd"], "no component is called 'tdd'"),
        (["gae,gamma=5", "td"], "advantage.gamma: Input should be less than or equal to 1"),
        (["gae", "k1"], "only components of one role can be compared"),
        (["gae"], "Missing argument 'B'"),
        (["gae", "td", "--plugin", "none.py"], "plugin none.py did not load"),
    ],
)
def test_a_bad_command_is_refused_in_words(command, arguments, says):
    code, _, err = command("diff", *arguments)
    assert code == 2
    assert says in err


def test_a_plugin_is_compared(command):
    Path("mine.py").write_text(
        "from rlhf_lab import hookimpl\nfrom rlhf_lab.components import Controller\n"
        "class Doubles(Controller):\n    name = 'doubles'\n"
        "    def __call__(self, coefficient, observed):\n        return 2 * coefficient\n"
        "@hookimpl\ndef rlhf_lab_components():\n    return [Doubles]\n",
        encoding="utf-8",
    )
    code, out, _ = command("diff", "fixed", "doubles", "--plugin", "mine.py", "--examples", "10")
    assert code == 1
    assert "smallest  coefficient=" in out


def test_a_loss_on_pairs_is_compared_on_pairs():
    bradley_terry, plackett_luce, thurstone = (
        REGISTRY.get("reward_model", name) for name in ("bradley_terry", "plackett_luce", "thurstone")
    )
    for pair in ((bradley_terry, plackett_luce), (plackett_luce, bradley_terry)):
        assert diff(*pair, examples=30) is None
    # at equal scores both have the loss log 2, but the normal curve is steeper there: 1/sqrt(pi) against 1/2
    found = diff(thurstone, bradley_terry, examples=30)
    assert found is not None
    assert found.inputs == {"scores": [0, 0]}
    assert found.answers == ("dL/dscores[0] = -0.5642", "dL/dscores[0] = -0.5")
