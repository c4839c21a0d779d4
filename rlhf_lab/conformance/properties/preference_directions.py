"""What a preference loss may claim of the direction in which it pulls, at the reference and far from it.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, h = a − b, L is the row's loss and g its
gradient dL/dlog π.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.properties.response_answers import (
    FAR,
    at_ratios,
    at_the_reference,
    claim,
    pull,
    ratios,
    with_policy,
)
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]

_MULTIPLES: Final = (1.0, 4.0, 16.0)  # of a case's log-ratios, over the width of a sigmoid for most β


def _slopes(subject: Subject, case: Rankings, chosen: float, rejected: float, note: str) -> None:
    due = torch.tensor([chosen, rejected], dtype=torch.float64).expand_as(case.log_probs)
    expect_equal(subject(at_the_reference(case)), {"dL/dlog_probs": due}, note=f"{note} at π = π_ref")


def _half_beta(subject: Subject, case: Rankings) -> None:
    beta = subject.parameter("beta", 0.1)
    unshifted = subject.of(shift=0.0) if subject.has("shift") else subject
    _slopes(unshifted, case, -beta / 2, beta / 2, "= (−β/2, β/2)")


def _quarter_beta(subject: Subject, case: Rankings) -> None:
    beta = subject.parameter("beta", 0.1)
    _slopes(subject, case, -beta / 4, beta / 4, "= (−β/4, β/4)")


def _rejected_moves(subject: Subject, case: Rankings) -> None:
    _slopes(subject, case, 0.0, subject.parameter("beta", 0.1) / 4, "= (0, β/4)")


def _one_over_beta(subject: Subject, case: Rankings) -> None:
    beta = subject.parameter("beta", 0.1)
    _slopes(subject.of(soft_labels=False), case, -1 / beta, 1 / beta, "= (−1/β, 1/β)")


def _fades(subject: Subject, case: Rankings) -> None:
    apart = torch.tensor([FAR, -FAR], dtype=torch.float64).expand_as(ratios(case))
    together = [] if case.desirable is None else [apart.abs(), -apart.abs()]  # of a pair only the margin may be far
    for far in (apart, -apart, *together):
        slope = pull(subject, at_ratios(case, far))
        note = f"where log(π/π_ref) are {far[0].tolist()}: it teaches nothing more"
        expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": torch.zeros_like(slope)}, note=note)


def _signs(subject: Subject, case: Rankings) -> tuple[Tensor, Tensor]:
    """Return the gradient and which responses should rise."""
    slope = pull(subject, case)
    first = torch.tensor([True, False]).expand_as(slope)
    return slope, first if case.desirable is None else case.desirable


def _up_and_down(subject: Subject, case: Rankings) -> None:
    slope, rises = _signs(subject, case)
    due = torch.where(rises, slope.clamp(max=0), slope.clamp(min=0))
    note = "or of the other sign: descent raises the chosen response and lowers the rejected one"
    expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": due}, note=note)


def _up_and_down_at_first(subject: Subject, case: Rankings) -> None:
    slope, rises = _signs(subject, at_the_reference(case))
    moves = torch.where(rises, slope < 0, slope > 0)
    due = torch.where(moves, slope, torch.where(rises, -1.0, 1.0))
    note = "or of its sign, and not 0, at π = π_ref"
    expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": due}, note=note)


def _down_and_apart(subject: Subject, case: Rankings) -> None:
    for times in _MULTIPLES:
        slope = pull(subject, at_ratios(case, times * ratios(case)))
        found = {"dL/da": slope.sum(-1), "dL/dh": -slope[:, 1]}  # L as a function of a and h
        due = {"dL/da": found["dL/da"].clamp(min=0), "dL/dh": found["dL/dh"].clamp(max=0)}
        note = f"or of the other sign, with log-ratios {times:g} times as large: descent lowers a and raises h"
        expect_equal(found, due, note=note)


def _convex(subject: Subject, case: Rankings) -> None:
    pull(subject, case)
    other = case.log_probs.flip(0) - 0.75 * case.log_probs.flip(-1)
    ends = [subject(with_policy(case, x))["L"] for x in (case.log_probs, other)]
    middle = subject(with_policy(case, (case.log_probs + other) / 2))["L"]
    note = f"at most, half way to log π = {other.tolist()}"
    expect_equal({"L": middle}, {"L": torch.minimum(middle, (ends[0] + ends[1]) / 2)}, note=note)


def _hinged(subject: Subject, case: Rankings) -> None:
    beta, a = subject.parameter("beta", 0.1), ratios(case)
    margins = torch.tensor([1.25, 3.0, -0.5, 0.5], dtype=torch.float64).repeat(len(a))[: len(a)] / beta
    here = at_ratios(case, torch.stack([a[:, 1] + margins, a[:, 1]], dim=-1))
    inside = (beta * margins < 1)[:, None]
    slope = torch.where(inside, torch.tensor([-beta, beta], dtype=torch.float64), 0.0)
    due = {"L": (1 - beta * margins).clamp(min=0), "dL/dlog_probs": slope}
    expect_equal(subject(here), due, note=f"for β h = {(beta * margins).tolist()}")


_RAFAILOV: Final = "Rafailov et al. 2023, section 4"
_ANCHORED: Final = "D'Oosterlinck et al. 2024, eq. 7 and 8"

CLAIMS: list[Property] = [
    claim("half-beta-at-the-reference", "g = (−β/2, β/2) at π = π_ref", _RAFAILOV, _half_beta),
    claim("quarter-beta-at-the-reference", "g = (−β/4, β/4) at π = π_ref", _ANCHORED, _quarter_beta),
    claim("rejected-alone-moves-at-the-reference", "g = (0, β/4) at π = π_ref", _ANCHORED, _rejected_moves),
    claim(
        "one-over-beta-at-the-reference",
        "for a sure label g = (−1/β, 1/β) at π = π_ref",
        "Azar et al. 2023, eq. 17; Wu et al. 2024 (SPPO), eq. 4.7",
        _one_over_beta,
        applies=about("soft_labels"),
    ),
    claim("pull-fades-far-away", "g = 0 where the responses are far apart, whichever way", _ANCHORED, _fades),
    claim(
        "chosen-up-rejected-down",
        "g ≤ 0 for the chosen response and g ≥ 0 for the rejected one, whatever the policy",
        _RAFAILOV,
        _up_and_down,
        share=0.5,
    ),
    claim(
        "chosen-up-rejected-down-at-the-reference",
        "g < 0 for the chosen response and g > 0 for the rejected one at π = π_ref",
        _RAFAILOV,
        _up_and_down_at_first,
    ),
    claim(
        "chosen-down-margin-up",
        "L never falls as a rises at the same h, and never rises as h does at the same a",
        _ANCHORED,
        _down_and_apart,
    ),
    claim(
        "convex-in-log-probs",
        "L half way between two policies' log-probabilities is at most the mean of theirs",
        "Boyd & Vandenberghe 2004, section 7.1",
        _convex,
    ),
    claim(
        "zero-beyond-the-margin",
        "where β h > 1, L = g = 0; before it L falls with the slope β",
        "Liu et al. 2023 (RSO)",
        _hinged,
    ),
]
