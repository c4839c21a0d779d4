"""Verification inside a plugin author's own tests: the decorator and the opt-in pytest plugin."""

import pytest

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.conformance import parametrize_with_properties
from rlhf_lab.conformance.checks import checks
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins
from rlhf_lab.types import Advantages, clean

pytest_plugins = ["pytester"]

load_plugins()  # what is imported now, the runs inside of this process need not import each

COMPONENT = """
from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, clean

class Doubles(AdvantageEstimator):
    '''Changes its inputs.'''
    name = "doubles"
    def __call__(self, batch):
        batch.rewards.mul_(2)
        return Advantages(clean(batch.rewards, batch.valid), None)

@hookimpl
def rlhf_lab_components():
    return [Doubles]
"""
TEST = """
from doubles import Doubles
from rlhf_lab.conformance import parametrize_with_properties

@parametrize_with_properties([Doubles], expected_failures={expected}, examples=5)
def test_math(component, check):
    assert component is Doubles
    check(component)
"""
PLUGIN = ("-p", "rlhf_lab.pytest_plugin")


class Rewards(AdvantageEstimator):
    name = "rewards"
    gain: float = 1.0

    def __call__(self, batch):
        return Advantages(self.gain * clean(batch.rewards, batch.valid), None)


class Doubles(Rewards):
    name = "doubles"

    def __call__(self, batch):
        batch.rewards.mul_(2)
        return super().__call__(batch)


@parametrize_with_properties([Rewards, Rewards(gain=0.5)], examples=5)
def test_a_sound_component(component, check):
    check(component)


@parametrize_with_properties([Doubles], expected_failures={"inputs-untouched": "doubles its inputs"}, examples=5)
def test_an_expected_failure(component, check):
    check(component)


def test_there_is_one_readable_item_for_each_component_and_property():
    names = [check.id for check in checks([Rewards, Doubles], examples=5)]
    assert "rewards-repeatable" in names
    assert "doubles-repeatable" in names
    assert len(set(names)) == len(names)


def test_a_check_raises_with_the_verdict():
    (check,) = (check for check in checks([Doubles], examples=5) if check.law.id == "inputs-untouched")
    with pytest.raises(AssertionError, match="doubles: inputs-untouched") as raised:
        check()
    assert "smallest    rewards=" in str(raised.value)
    assert "got         rewards changed in place" in str(raised.value)


def test_an_expected_failure_of_one_component_leaves_the_others_alone():
    found = checks([Rewards, Doubles], expected_failures={"doubles": {"inputs-untouched": "doubles"}}, examples=5)
    assert [check.id for check in found if check.reason] == ["doubles-inputs-untouched"]


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"inputs-touched": "?"}, "no property is called 'inputs-touched'. Did you mean 'inputs-untouched'?"),
        ({"future-only": "it claims no such thing"}, "no property is called 'future-only'"),
        ({"rewards": {"inputs-touched": "?"}}, "no property is called 'inputs-touched'"),
        ({"reward": {"inputs-untouched": "?"}}, "no component is called 'reward'. Did you mean 'rewards'?"),
    ],
)
def test_an_expected_failure_that_names_nothing_is_an_error(expected, says):
    with pytest.raises(LabError) as error:
        parametrize_with_properties([Rewards], expected_failures=expected)
    assert says in str(error.value)


@pytest.fixture
def project(pytester, monkeypatch):
    """Return a project with a component that breaks one law, and a way to run its tests in this process."""
    pytester.makepyfile(doubles=COMPONENT)
    pytester.makeini("[pytest]")
    monkeypatch.syspath_prepend(pytester.path)

    def run(*arguments: str):
        return pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:cacheprovider", *arguments)

    return run


def test_a_broken_law_fails_a_test(project, pytester):
    pytester.makepyfile(test_doubles=TEST.replace("{expected}", "None"))
    result = project("-v")
    result.stdout.fnmatch_lines(["*test_math[[]doubles-inputs-untouched[]] FAILED*", "*rewards changed in place*"])
    assert result.parseoutcomes()["failed"] == 1


def test_an_expected_failure_is_strict(project, pytester):
    expected = {"inputs-untouched": "doubles its inputs", "repeatable": "it is, after all"}
    pytester.makepyfile(test_doubles=TEST.replace("{expected}", repr(expected)))
    result = project("-v", "-rx")
    result.stdout.fnmatch_lines(["*XPASS(strict)*it is, after all*", "*XFAIL*doubles its inputs*"])
    assert {kind: n for kind, n in result.parseoutcomes().items() if "fail" in kind} == {"failed": 1, "xfailed": 1}


def test_an_expected_failure_of_no_law_is_an_error_at_collection(project, pytester):
    pytester.makepyfile(test_doubles=TEST.replace("{expected}", "{'no-law': '?'}"))
    result = project()
    result.stdout.fnmatch_lines(["*expected_failures: no property is called 'no-law'*"])
    assert result.parseoutcomes() == {"errors": 1} or result.parseoutcomes() == {"error": 1}


INI = """
[pytest]
rlhf_lab_verify = doubles
rlhf_lab_plugin = doubles.py
rlhf_lab_examples = 5
"""


def test_the_plugin_verifies_without_a_test(project, pytester):
    pytester.makeini(INI)
    result = project(*PLUGIN, "-v")
    result.stdout.fnmatch_lines(["*advantage/doubles-inputs-untouched FAILED*", "*rewards changed in place*"])
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert outcomes["passed"] > 5


def test_the_plugin_knows_expected_failures(project, pytester):
    pytester.makeini(INI + "rlhf_lab_expected_failures = doubles inputs-untouched: doubles its inputs\n")
    result = project(*PLUGIN)
    assert result.ret == 0
    assert result.parseoutcomes()["xfailed"] == 1


def test_the_plugin_takes_names_from_the_command_line(project):
    result = project(*PLUGIN, "--rlhf-lab-verify", "doubles", "--rlhf-lab-plugin", "doubles.py", "-k", "repeatable")
    assert result.parseoutcomes()["passed"] == 1


def test_the_plugin_is_silent_where_nothing_is_asked(project, pytester):
    pytester.makepyfile(test_nothing="def test_nothing(): pass")
    outcomes = project(*PLUGIN).parseoutcomes()
    assert outcomes["passed"] == 1
    assert "failed" not in outcomes


@pytest.mark.parametrize(
    ("ini", "says"),
    [
        (INI.replace("verify = doubles", "verify = double"), "*no component is called 'double'*"),
        (INI.replace("doubles.py", "none.py"), "*plugin none.py did not load: there is no such file*"),
        (INI.replace("= 5", "= few"), "*rlhf_lab_examples: expected a number from 1 on, found 'few'*"),
        (INI + "rlhf_lab_expected_failures = doubles\n", "*expected `COMPONENT PROPERTY: REASON`, found 'doubles'*"),
        (INI + "rlhf_lab_expected_failures = doubles no-law: ?\n", "*no property is called 'no-law'*"),
    ],
)
def test_what_the_plugin_cannot_verify_is_told(project, pytester, ini, says):
    pytester.makeini(ini)
    result = project(*PLUGIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])
