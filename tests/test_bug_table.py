"""Every entry of the list of real bugs is rebuilt as a mutant, waits for something, or is said to be out of reach."""

from __future__ import annotations

from importlib import import_module

import pytest
from mutants.bugs import BUGS, LATER, OUT, REBUILT


def test_every_bug_stands_in_one_place() -> None:
    assert sorted([*REBUILT, *LATER, *OUT]) == sorted(BUGS)


@pytest.mark.parametrize(("code", "role"), REBUILT.items())
def test_a_rebuilt_bug_has_a_mutant_of_its_role(code: str, role: str) -> None:
    bugs = [mutant.bug for mutant in import_module(f"mutants.{role}").MUTANTS]
    assert any(bug.split()[0].rstrip(":,") == code for bug in bugs if bug), f"{code} has no mutant of role {role}"


def test_out_and_later_say_why() -> None:
    assert all(len(reason) > 10 for reason in [*LATER.values(), *OUT.values()])
