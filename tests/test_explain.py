"""One advantage taken apart: exact weights, terms that sum to it, boundaries, and cases from files."""

import json
from pathlib import Path

import pytest
import torch

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.conformance import explain
from rlhf_lab.conformance.explanation_case import example_case, read_case
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Advantages, Trajectories, clean

REGISTRY = load_plugins()
ESTIMATORS = [component.name for component in REGISTRY.components("advantage") if "@" not in component.name]
CASE = """\
rewards:     [1, 0, 9, 2, 1]
values:      [0.5, 1, 9, 0.25, 2]
next_values: [null, null, null, 4, null]
valid:       [true, true, false, true, true]
truncated:   [false, false, false, true, false]
terminated:  [false, false, false, false, true]
parameters:  {gamma: 0.5, lam: 0.5}
at: [0, 0]
"""


def get(name: str) -> type[AdvantageEstimator]:
    return REGISTRY.get("advantage", name)


@pytest.fixture
def case(tmp_path):
    """Return a function that reads a case with the given replacements."""

    def read(component: str, *changes: tuple[str, str]):
        text = CASE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "case.yaml"
        path.write_text(text, encoding="utf-8")
        return read_case(path, get(component), REGISTRY)

    return read


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_terms_sum_to_the_advantage(name):
    found = example_case(get(name))
    explained = explain(get(name)(), found.batch, 0, 0)
    assert sum(step.adds for step in explained.steps) + explained.rest == pytest.approx(explained.advantage, abs=1e-9)
    assert explained.linear == (name != "grpo")


def test_the_weights_of_gae_are_those_of_the_formula(case):
    # (gamma lam)^l for the l-th reward and TD error: 1, 1/4, 1/16; V(s_1) stands in two TD errors
    found = case("gae")
    explained = explain(get("gae")(**found.parameters), found.batch, found.row, found.step)
    assert [step.step for step in explained.steps] == [0, 1, 2, 3]
    by_step = {step.step: step for step in explained.steps}
    assert [by_step[t].reward.weight for t in (0, 1, 3)] == [1, 0.25, 0.0625]
    assert [by_step[t].value.weight for t in (0, 1, 3)] == [-1, 0.5 - 0.25, 0.25 * 0.5 - 0.0625]
    assert [by_step[t].td_error for t in (0, 1, 3)] == [1, 0.125 - 1, 2 + 0.5 * 4 - 0.25]
    assert by_step[3].behind.weight == 0.0625 * 0.5
    assert by_step[3].boundary == "truncated, bootstraps from the value behind it"
    assert by_step[2].boundary == "does not count: crossed unchanged"
    assert by_step[2].terms == {}
    assert explained.in_td_errors
    assert explained.rest == 0
    assert explained.advantage == 1 - 0.25 * 0.875 + 0.0625 * 3.75


def test_a_terminated_step_has_no_value_behind_it(case):
    found = case("gae", ("at: [0, 0]", "at: 4"))
    explained = explain(get("gae")(**found.parameters), found.batch, found.row, found.step)
    (only,) = explained.steps
    assert (only.boundary, only.behind.weight) == ("terminated", 0)
    assert explained.advantage == 1 - 2


def test_a_bootstrap_after_a_termination_is_seen(case):
    class Bootstraps(get("td")):
        name = "bootstraps"

        def __call__(self, batch):
            a = batch.rewards + self.gamma * batch.next_values - batch.values
            return Advantages(clean(a, batch.valid))

    found = case(
        "gae",
        ("terminated:  [false, false, false, false, true]", "terminated:  [false, false, false, true, false]"),
        ("null, 4, null", "null, 4, 8"),
        ("at: [0, 0]", "at: 3"),
        ("{gamma: 0.5, lam: 0.5}", "{}"),
    )
    explained = explain(Bootstraps(gamma=0.5), found.batch, 0, 3)
    assert explained.steps[0].boundary == "terminated, bootstraps from the value behind it"


def test_other_responses_have_weights():
    found = example_case(get("rloo"))
    explained = explain(get("rloo")(), found.batch, 0, 0)
    assert {(step.row, step.reward.weight) for step in explained.steps if step.row} == {(1, -0.5), (2, -0.5)}
    assert [step.boundary for step in explained.steps if step.row == 1] == [
        "another episode",
        "another episode; terminated",
    ]


def test_an_estimator_that_is_not_linear_is_said_to_be_explained_locally():
    found = example_case(get("grpo"))
    explained = explain(get("grpo")(), found.batch, 0, 0)
    assert not explained.linear
    assert not explained.in_td_errors
    assert explained.lines
    assert "the weights are local" in list(explained.lines())[-1]
    # a common shift of all scores changes nothing, so the slopes of one step per row sum to 0
    assert sum(step.reward.weight for step in explained.steps if step.step == 0) == pytest.approx(0, abs=1e-6)


def test_a_constant_is_told_as_rest():
    found = example_case(get("constant_baseline"))
    explained = explain(get("constant_baseline")(baseline=2), found.batch, 0, 0)
    assert explained.linear
    assert explained.rest == pytest.approx(-2)


def test_a_step_that_does_not_count_is_refused(case):
    found = case("gae")
    with pytest.raises(LabError, match="step 2 of row 0 does not count"):
        explain(get("gae")(), found.batch, 0, 2)


def test_a_batch_that_the_estimator_refuses_is_told():
    found = example_case(get("gae"))
    several = Trajectories(
        **{n: getattr(found.batch, n) for n in ("rewards", "terminated", "truncated", "valid")},
        group_ids=torch.zeros(1, dtype=torch.int64),
    )
    with pytest.raises(LabError, match=r"'rloo' refuses the case: .* several episodes"):
        explain(get("rloo")(), several, 0, 0)


def test_an_estimator_that_raises_is_told():
    class Raises(AdvantageEstimator):
        name = "raises"

        def __call__(self, batch):
            raise RuntimeError("not today")

    with pytest.raises(LabError, match="raised RuntimeError: not today"):
        explain(Raises(), example_case(Raises).batch, 0, 0)


def test_json_is_read_as_well(tmp_path):
    path = tmp_path / "case.json"
    path.write_text(json.dumps({"rewards": [[1, 2], [3, 4]], "terminated": [[False, True]] * 2, "at": [1, 0]}), "utf-8")
    found = read_case(path, get("monte_carlo"))
    assert (found.batch.rewards.tolist(), found.row, found.step) == ([[1.0, 2.0], [3.0, 4.0]], 1, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("rewards:     [1, 0, 9, 2, 1]", "rewards:     [1, zero, 9, 2, 1]"),
            "case.yaml:1:1: rewards: expected lists of num",
        ),
        (("rewards:     [1, 0, 9, 2, 1]\n", ""), "case.yaml:1:1: a case needs rewards"),
        (
            ("values:      [0.5, 1,", "values:      [0.5,"),
            "case.yaml:2:1: values: has shape [1, 4]; rewards ask for [1, 5]",
        ),
        (("valid: ", "vaild: "), "case.yaml:4:1: vaild: is no field of a case. Did you mean 'valid'?"),
        (("valid:       [true", "valid:       [1"), "case.yaml:4:1: valid: expected lists of true or false, found 1"),
        (
            ("null, 4, null", "null, null, null"),
            "case.yaml:3:1: next_values: step 3 of row 0 is truncated, or the row stops",
        ),
        (("[null, null,", "[3, null,"), "case.yaml:3:1: next_values: step 0 of row 0 is inside an episode"),
        (
            ("false, true, false]", "true, true, false]"),
            "case.yaml:5:1: truncated: an episode ends at a step that does not count",
        ),
        (("gamma: 0.5", "gamma: 1.5"), "case.yaml:7:15: parameters.gamma: Input should be less than or equal to 1"),
        (("gamma: 0.5", "gama: 0.5"), "case.yaml:7:15: parameters.gama: is no parameter here. Did you mean 'gamma'?"),
        (("{gamma: 0.5, lam: 0.5}", "0.5"), "case.yaml:7:1: parameters: expected a mapping, found 0.5"),
        (("at: [0, 0]", "at: [1, 0]"), "case.yaml:8:1: at: [1, 0] is outside of 1 rows of 5 steps"),
        (("at: [0, 0]", "at: here"), "case.yaml:8:1: at: expected [row, step], found 'here'"),
        (("values:      [0.5, 1, 9, 0.25, 2]\n", ""), "case.yaml:1:1: gae needs next_values, values"),
        (("at: [0, 0]", "at: ["), "no YAML"),
        (("rewards:     [1, 0,", "rewards:     [.nan, 0,"), "case.yaml:1:1: rewards: nan at index [0, 0]"),
    ],
)
def test_a_bad_case_is_refused_with_its_place(case, change, says):
    with pytest.raises(LabError) as error:
        case("gae", change)
    assert says in str(error.value)


def test_the_command_has_an_example_of_its_own(command):
    code, out, _ = command("explain", "gae,lam=1,gamma=0.5")
    assert code == 0
    assert out.startswith("A[0,0] of gae  gamma=0.5 lam=1 = 1.5\n")
    assert "truncated, bootstraps from the value behind it" in out


def test_the_command_reads_a_file_and_prints_json(command):
    Path("case.yaml").write_text(CASE, encoding="utf-8")
    code, out, _ = command("explain", "gae", "--case", "case.yaml", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == {"gamma": 0.5, "lam": 0.5}
    assert found["at"] == [0, 0]
    assert sum(step["adds"] for step in found["steps"]) == found["advantage"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["k1"], "'k1' is of role kl; only advantages can be taken apart"),
        (["preference/dpo", "--case", "none.yaml"], "'dpo' is of role preference; only advantages can be taken apart"),
        (["gea"], "no component is called 'gea'"),
        (["gae", "--case", "none.yaml"], "cannot read none.yaml"),
        (["gae,lam=2"], "advantage.lam: Input should be less than or equal to 1"),
    ],
)
def test_a_bad_command_is_refused_in_words(command, arguments, says):
    code, out, err = command("explain", *arguments)
    assert (code, out) == (2, "")
    assert says in err
