"""Laws of role controller: runs apart, never negative, one direction; claims have a module of their own."""

from __future__ import annotations

from typing import Final

from rlhf_lab.conformance.inputs import Observed, map_fields
from rlhf_lab.conformance.properties.controller_claims import CLAIMS, answers, coefficients_of, observations
from rlhf_lab.conformance.property import Check, Property, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]

_CONTRACT: Final = "contract of rlhf_lab"


def _runs_apart(subject: Subject, case: Observed) -> None:
    whole = subject(case)["coefficient"]
    for run in range(len(whole)):
        alone = Observed(case.coefficient[[run]], case.observed[[run]])
        expect_equal(subject(alone), {"coefficient": whole[[run]]}, note=f"as for all {len(whole)} runs")


def _one_number(subject: Subject, case: Observed) -> None:
    alone = subject(map_fields(case, lambda _, __, x: x[0]))
    expect_equal(alone, {"coefficient": subject(case)["coefficient"][0]}, note="as for a batch of runs, shape []")


def _never_negative(subject: Subject, case: Observed) -> None:
    for coefficient in (0.0, 1e-9, *coefficients_of(case), 1e9):
        found = answers(subject, coefficient, observations(subject))
        least = float(found.min())
        expect_true(bool(found.isfinite().all()) and least >= 0, f"a coefficient of {show_number(least)}", "0 or more")


def _one_direction(subject: Subject, case: Observed) -> None:
    for coefficient in coefficients_of(case):
        steps = answers(subject, coefficient, observations(subject)).diff()
        rises, falls = float(steps.max()), float(steps.min())
        got = f"rises and falls by {show_number(rises)} and {show_number(-falls)} as more is observed"
        expect_true(rises <= 1e-9 * coefficient or falls >= -1e-9 * coefficient, got, "one direction")


def _law(id_: str, statement: str, reference: str, check: Check) -> Property:
    return Property(id_, "controller", statement, reference, False, check, share=0.5)


PROPERTIES: list[Property] = [
    _law("runs-steered-apart", "a run's coefficient depends on no other run", _CONTRACT, _runs_apart),
    _law("one-number-will-do", "numbers of shape [] get the answer of one run", _CONTRACT, _one_number),
    _law("coefficient-never-negative", "the coefficient stays finite and at least 0", _CONTRACT, _never_negative),
    _law(
        "one-direction",
        "as more is observed, the coefficient never rises here and falls there",
        _CONTRACT,
        _one_direction,
    ),
    *CLAIMS,
]
