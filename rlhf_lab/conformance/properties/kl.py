"""Laws of role kl; claims about single samples and about expectations have modules of their own."""

from __future__ import annotations

import math
from typing import Any, Final

import torch

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import LogProbs, with_fields
from rlhf_lab.conformance.kl_cases import far_apart
from rlhf_lab.conformance.properties.kl_claims import (
    SAMPLE_CLAIMS,
    at_reference,
    slope_of,
    value_of,
    with_action,
    without_old,
)
from rlhf_lab.conformance.properties.kl_expectations import EXPECTATIONS
from rlhf_lab.conformance.property import Check, Property, always, expect_equal, expect_true
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]

_CONTRACT: Final = "contract of rlhf_lab"
_DEFINED: Final = "Kullback & Leibler 1951"


def _zero_at_reference(subject: Subject, case: LogProbs) -> None:
    found = value_of(at_reference(subject, case))
    expect_equal(found, {"KL": torch.zeros_like(found["KL"])}, note="where π = π_ref")


def _same_old_policy(subject: Subject, case: LogProbs) -> None:
    same = subject(with_fields(case, {"old_log_probs": case.log_probs.clone()}))
    expect_equal(same, value_of(subject(without_old(case))), note="as without π_old, since π_old = π")


def _finite(subject: Subject, case: LogProbs) -> None:
    for symbol, x in subject(case).items():
        expect_true(bool(x.isfinite().all()), f"{symbol} = {x[~x.isfinite()].tolist()}", "finite numbers")


def _left_out(subject: Subject, case: LogProbs) -> None:
    before, old = subject(case), case.old_log_probs
    wider = LogProbs(
        with_action(case.log_probs, -math.inf),
        with_action(case.ref_log_probs, -math.inf),
        None if old is None else with_action(old, -math.inf),
    )
    due = value_of(before) | {symbol: with_action(x, 0.0) for symbol, x in slope_of(before).items()}
    expect_equal(subject(wider), due, note="as without an action that is impossible under all policies")


_FAR_APART: Final = {whole: far_apart(distributions=whole) for whole in (False, True)}


def _extremes(component: Component) -> Any:
    return _FAR_APART[_is_whole(component) is None]


def _is_whole(component: Component) -> str | None:
    return None if getattr(component, "distributions", False) else "it sees no distributions"


def _law(id_: str, statement: str, reference: str, check: Check, cases: Any = None, applies: Any = always) -> Property:
    return Property(id_, "kl", statement, reference, False, check, cases=cases, applies=applies, share=0.5)


PROPERTIES: list[Property] = [
    _law(
        "zero-at-the-reference",
        "KL = 0 where π = π_ref",
        f"{_DEFINED}; OpenRLHF commit feeb0283",
        _zero_at_reference,
    ),
    _law(
        "old-policy-equal-to-policy",
        "with π_old = π the value is that without π_old",
        _CONTRACT,
        _same_old_policy,
    ),
    _law(
        "finite-at-extremes",
        "value and gradient are finite for log-probabilities down to −1024 and up to 30 apart",
        _CONTRACT,
        _finite,
        _extremes,
    ),
    _law(
        "impossible-actions-left-out",
        "an action of probability 0 under all policies changes nothing, and its gradient is 0",
        f"{_CONTRACT}; {_DEFINED}: 0 log 0 = 0",
        _left_out,
        None,
        _is_whole,
    ),
    *SAMPLE_CLAIMS,
    *EXPECTATIONS,
]
