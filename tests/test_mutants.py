"""Wrong components are caught, right ones in another form are not, and every law earns its place."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from math import inf
from random import Random
from typing import Any

import pytest
from mutants.counterexamples import steps_and_digits
from mutants.mutant import Mutant

from rlhf_lab.conformance import Verdict
from rlhf_lab.conformance.properties import all_properties
from rlhf_lab.conformance.verification import Verification, properties_for

EXAMPLES = {
    "advantage": 24,
    "normalizer": 24,
    "objective": 24,
    "value": 24,
    "kl": 60,
    "aggregation": 40,
    "controller": 40,
    "preference": 10,
    "reward_model": 10,
}


def failed(component: Any, examples: int, shrink_calls: int = 0) -> list[Verdict]:
    return failures(Verification(component, examples=examples, shrink_calls=shrink_calls))


def failures(verification: Verification, *only: str) -> list[Verdict]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mutant may divide by nothing
        return [verdict for verdict in verification.run(only) if verdict.status == "failed"]


def mutants(role: str) -> list[Mutant]:
    return list(import_module(f"mutants.{role}").MUTANTS)


@pytest.mark.parametrize("role", list(EXAMPLES))
def test_mutants_are_caught_and_every_law_catches_one(role: str) -> None:
    # One run declares both, the definition and the claims. Without the definition's verdict it is the run of a
    # component that only claims, without those of the claims that of one that only implements. Of each mutant are
    # asked the laws that have caught nothing so far, then those that catch most until it is caught in both runs.
    claims = {law.id for law in all_properties(role) if law.claim}
    catches = Counter[str]()
    survivors: dict[str, list[str]] = {"implementing": [], "claiming": []}
    found = mutants(role)
    for mutant in Random(0).sample(found, len(found)):  # of all kinds early, so that few laws stay idle for long
        component, oracle = mutant.declaring_both(), mutant.oracle_id()
        verification = Verification(component, examples=EXAMPLES[role], shrink_calls=0)
        broken: set[str] = set()
        laws = [law.id for law in properties_for(component)]
        for law in sorted(laws, key=lambda law: -catches[law] if catches[law] else -inf):
            if catches[law] and broken - claims and broken - {oracle}:
                break
            broken |= {verdict.property.id for verdict in failures(verification, law)}
        catches.update(broken)
        if not broken - claims:
            survivors["implementing"].append(mutant.component.name)
        if not broken - {oracle}:
            survivors["claiming"].append(mutant.component.name)
    assert len(survivors["implementing"]) <= 0.05 * len(found), survivors
    assert len(survivors["claiming"]) <= 0.15 * len(found), survivors
    assert {law.id for law in all_properties(role)} - catches.keys() == set()


def controls() -> Iterator[Any]:
    for role in EXAMPLES:
        for control in getattr(import_module(f"mutants.{role}"), "CONTROLS", ()):
            yield pytest.param(control, id=f"{role}-{control.name}")


@pytest.mark.parametrize("component", list(controls()))
def test_right_components_in_another_form_pass(component: Any) -> None:
    assert [(verdict.property.id, verdict.message) for verdict in failed(component, 40)] == []


@pytest.mark.parametrize("role", list(EXAMPLES))
def test_counterexamples_can_be_checked_by_hand(role: str) -> None:
    # at most 3 steps in the median, and numbers of at most 3 significant digits; of a dozen mutants
    every = mutants(role)
    found = [
        steps_and_digits(verdict.counterexample.inputs)
        for mutant in every[:: len(every) // 12]
        for verdict in failed(mutant.implementing(), EXAMPLES[role], shrink_calls=300)
        if verdict.counterexample and verdict.counterexample.inputs
    ]
    assert statistics.median(steps for steps, _ in found) <= 3
    assert statistics.median(digits for _, digits in found) <= 3
