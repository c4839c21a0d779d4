"""What a text on RLHF claims and misprints, as exact tests: where it holds, and where it does not.

Each claim is checked by enumerating every outcome of a small world, without sampling. Formulas that are printed wrong
must fail where the right ones hold. Cnn numbers a claim, Enn a correction; names of tests contain them. The tests stand
in ``source_text``, one module for each part of the text, and are gathered here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

import pytest

PARTS = ("returns", "baselines", "values", "gae", "clipping", "losses", "tokens", "alignment", "preferences", "chess")
pytest.register_assert_rewrite("source_text")  # before it is imported, hence no import statement below

for _part in PARTS:
    _found = vars(import_module(f"source_text.{_part}"))
    _tests = {name: test for name, test in _found.items() if name.startswith("test_")}
    assert not _tests.keys() & globals().keys(), f"{_part}: a test of another part has the same name"
    globals().update(_tests)

CLAIMS = [f"C{i:02}" for i in range(1, 41)]
ERRATA = [f"E{i:02}" for i in range(1, 49)]

LANGUAGE_MODEL = "language model"
STUDY = "empirical study"

WAITING = {
    "C15": (LANGUAGE_MODEL, "the gradient that a value head sends into the policy's trunk"),
    "C24": (STUDY, "PPO, A2C and REINFORCE over steps, with seeds and intervals"),
}

NO_FORMULA = {
    "E01": "a definition; test_c01 shows what it should depend on",
    "E02": "notation: a trajectory called a policy, an integral without its measure",
    "E05": "a reason, not a formula: dynamics are unknown, memory is not what is missing",
    "E07": "notation: 1/D for 1/|D|; test_c08 has the right factor",
    "E08": "wording: unbiased at every size, not in the limit; test_c08",
    "E31": "notation: one letter for action and advantage, one for reward and ratio",
    "E34": "a list of what pseudocode leaves out; its recursion is E15's, its sign E17's",
}


def registered() -> dict[str, Callable[[], bool]]:
    """Return how to find out whether what tests wait for has come."""
    from source_text.worlds import REGISTRY

    return {
        LANGUAGE_MODEL: lambda: any("llm" in each.__module__ for each in REGISTRY.components("environment")),
        STUDY: lambda: False,
    }


def named() -> set[str]:
    """Return the ids that the names of the tests contain."""
    names = [name for name in globals() if name.startswith("test_")]
    return {found.upper() for name in names for found in re.findall(r"(?<=_)[ce]\d\d(?=_)", name)}


@pytest.mark.parametrize("ids", [CLAIMS, ERRATA])
def test_every_claim_and_correction_is_tested_or_listed_with_what_it_waits_for(ids: list[str]) -> None:
    known = {"tested": named(), "waiting": set(WAITING), "no formula": set(NO_FORMULA)}
    told = {each: [kind for kind, those in known.items() if each in those] for each in ids}
    assert {each: kinds for each, kinds in told.items() if len(kinds) != 1} == {}


def test_no_test_names_an_id_that_does_not_exist() -> None:
    assert named() | set(WAITING) | set(NO_FORMULA) == {*CLAIMS, *ERRATA}
    assert not set(NO_FORMULA) & set(CLAIMS)


@pytest.mark.parametrize("waiting", WAITING)
def test_what_is_waited_for_has_not_come(waiting: str) -> None:
    thing, what = WAITING[waiting]
    assert not registered()[thing](), f"there are {thing} now: write the test of {waiting} ({what})"
