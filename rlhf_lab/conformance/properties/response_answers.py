"""What claims on preference losses share: their cases, other log-probabilities for a case, and the answer of dpo.

``pairs`` and ``whole_rows`` are full batches without extremes, so that a claim can be told in its plainest form; that
missing candidates and extremes change nothing is for the laws to say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import Component, PreferenceObjective
from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.losses import answered
from rlhf_lab.conformance.property import Property, Violation
from rlhf_lab.conformance.ranking_cases import rankings
from rlhf_lab.conformance.subject import Answer, Subject, UnjudgedError
from rlhf_lab.types import Rankings

__all__ = [
    "FAR",
    "at_ratios",
    "at_the_reference",
    "claim",
    "dpo",
    "lengths",
    "pairs",
    "pull",
    "rate",
    "ratios",
    "slopes",
    "swapped",
    "whole_rows",
    "with_policy",
]

FAR: Final = 2.0**13  # log-ratios where every sigmoid has reached its end
_LABELS: Final = frozenset({"ref_log_probs", "lengths", "targets", "ranks", "preference_prob", "margins"})
_COMPARISONS: Final = (None, "bradley_terry", "plackett_luce")  # likelihoods that are equal for two responses


def pairs(component: Component) -> st.SearchStrategy[Rankings]:
    """Return full batches of two responses a row."""
    return _full(_fields(component), 2)


def whole_rows(component: Component) -> st.SearchStrategy[Rankings]:
    """Return full batches of two responses a row or more, of as many as the component takes."""
    most = component.most_candidates() if isinstance(component, PreferenceObjective) else None
    return _full(_fields(component), most)


def _fields(component: Component) -> frozenset[str]:
    fixed = type(component).needs is PreferenceObjective.needs
    return component.needs() if fixed else component.needs() | _LABELS


@cache
def _full(fields: frozenset[str], most: int | None) -> st.SearchStrategy[Rankings]:
    return rankings(fields, most=most, full=True)


def with_policy(case: Rankings, log_probs: Tensor) -> Rankings:
    """Return the batch with other log-probabilities of the policy."""
    return map_fields(case, lambda name, _, x: log_probs if name == "log_probs" else x)


def ratios(case: Rankings) -> Tensor:
    """Return log(π/π_ref) ``[rows, k]``; raises ``Violation`` where the component reads no reference."""
    if case.ref_log_probs is None:
        raise Violation("ref_log_probs not read", "a component that compares with the reference")
    return case.log_probs - case.ref_log_probs


def at_ratios(case: Rankings, due: Tensor) -> Rankings:
    """Return the batch with other log(π/π_ref) of each response, at the same reference."""
    return with_policy(case, case.log_probs - ratios(case) + due)


def at_the_reference(case: Rankings) -> Rankings:
    """Return the batch with π = π_ref."""
    tokens = case.token_ref_log_probs
    here = case if tokens is not None and case.ref_log_probs is None else at_ratios(case, 0 * case.log_probs)

    def change(name: str, _: str, x: Tensor) -> Tensor:
        if name == "token_log_probs" and tokens is not None:
            return tokens
        return torch.zeros_like(x) if name == "token_kl" else x

    return map_fields(here, change)


def pull(subject: Subject, case: Rankings) -> Tensor:
    """Return ``dL/dlog_probs``; raises ``Violation`` where the component reads those of tokens in their place."""
    answer = subject(case)
    if "dL/dlog_probs" not in answer:
        raise Violation("no dL/dlog_probs", "a component that reads log_probs")
    return answer["dL/dlog_probs"]


def slopes(subject: Subject, case: Rankings) -> Answer:
    """Return L and ``dL/dlog_probs``; raises ``Violation`` as ``pull`` does."""
    return {"L": subject(case)["L"], "dL/dlog_probs": pull(subject, case)}


def rate(subject: Subject) -> float:
    """Return ``label_smoothing``; raises ``Violation`` where the component does not know it."""
    found = subject.parameter("label_smoothing")
    if found is None:
        raise Violation("no parameter label_smoothing", "one, which the claim is about")
    return float(found)


def lengths(case: Rankings) -> Tensor:
    """Return the lengths; raises ``Violation`` where the component does not read them."""
    if case.lengths is None:
        raise Violation("lengths not read", "a component that reads lengths")
    return case.lengths


def swapped(case: Rankings) -> Rankings:
    """Return the batch with the other response as the chosen one; what is told of a row stays."""
    return map_fields(case, lambda _, axes, x: x.flip(1) if axes in ("same", "token") else x)


def dpo(margin: Tensor, beta: float) -> Answer:
    """Return what ``dpo`` answers to pairs with the difference ``margin`` of log(π/π_ref)."""
    slope = beta * torch.sigmoid(-beta * margin)
    return {"L": -logsigmoid(beta * margin), "dL/dlog_probs": torch.stack([-slope, slope], dim=-1)}


def claim(id_: str, statement: str, reference: str, check: Callable[[Subject, Any], None], **options: Any) -> Property:
    """Return a claim on preference losses; its cases are ``pairs`` unless it says otherwise.

    A component that holds a likelihood of another kind of comparison is not judged by it: claims are of the class.
    """

    def told(subject: Subject, case: Any) -> None:
        likelihood = subject.parameter("likelihood")
        if likelihood is not None and likelihood.implements not in _COMPARISONS:
            raise UnjudgedError(f"it is claimed for likelihood bradley_terry, found {likelihood.name}")
        check(subject, case)

    defaults = {"cases": pairs, "share": 0.25}
    return Property(id_, "preference", statement, reference, True, answered(told), **{**defaults, **options})
