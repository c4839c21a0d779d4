"""What a reward-model loss may claim of how it departs from Bradley-Terry: by a margin, by centring, by other noise."""

from __future__ import annotations

import math
from typing import Final

import torch

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.score_answers import bradley_terry, claim, difference, given, pairs, with_scores
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Scores

__all__ = ["CLAIMS"]

_SYMBOLS: Final = ("L", "dL/dscores")
_LOGIT_OF_PROBIT: Final = 1.702  # the factor at which the logistic curve is nearest to the normal one ...
_APART: Final = 0.0095  # ... and the farthest that they are apart there


def _zero_margin(subject: Subject, case: Scores) -> None:
    none = torch.zeros_like(given(case, "margins"))
    level = map_fields(case, lambda name, _, x: none if name == "margins" else x)
    expect_equal(subject(level), bradley_terry(difference(case)), note="by bradley_terry, without a margin")


def _handicap(subject: Subject, case: Scores) -> None:
    margins = given(case, "margins")
    handicap = torch.stack([margins, torch.zeros_like(margins)], dim=-1)
    level = map_fields(case, lambda name, _, x: torch.zeros_like(x) if name == "margins" else x)
    due = {symbol: subject(with_scores(level, case.scores - handicap))[symbol] for symbol in _SYMBOLS}
    expect_equal(subject(case), due, note="as without margins and with r_w lower by the margin")


def _opposite_scores(subject: Subject, case: Scores) -> None:
    half = 0.5 * difference(case)
    centred = subject(with_scores(case, torch.stack([half, -half], dim=-1)))
    expect_equal(centred, bradley_terry(2 * half), note="by bradley_terry, at r_w = −r_l")


def _squared_sum(subject: Subject, case: Scores) -> None:
    coef, level = subject.parameter("coef", 0.01), case.scores.sum(-1)
    half = 0.5 * difference(case)
    centred = subject(with_scores(case, torch.stack([half, -half], dim=-1)))
    penalty = {"L − L'": subject(case)["L"] - centred["L"]}
    note = f"= coef (r_w + r_l)² for coef = {coef:g}, with L' at r_w = −r_l"
    expect_equal(penalty, {"L − L'": coef * level**2}, note=note)


def _unit_of_noise(subject: Subject, case: Scores) -> None:
    wider = subject.of(scale=4 * subject.parameter("scale", 1.0))(with_scores(case, 4 * case.scores))
    due = {"L": subject(case)["L"], "dL/dscores": subject(case)["dL/dscores"] / 4}
    expect_equal(wider, due, note="= L and g / 4, with scores and scale 4 times as large")


def _near_logit(subject: Subject, case: Scores) -> None:
    slope = _LOGIT_OF_PROBIT / (math.sqrt(2) * subject.parameter("scale", 1.0))
    chance, near = (-subject(case)["L"]).exp(), torch.sigmoid(slope * difference(case))
    held = chance.clamp(near - _APART, near + _APART)
    note = f"within {_APART} of σ({_LOGIT_OF_PROBIT} (r_w − r_l) / (√2 scale))"
    expect_equal({"exp(−L)": chance}, {"exp(−L)": held}, note=note)


_LLAMA: Final = "Touvron et al. 2023 (Llama 2), eq. 2"
_CENTRED: Final = "Eisenstein et al. 2023"

CLAIMS: list[Property] = [
    claim(
        "zero-margin-is-bradley-terry",
        "with m = 0, L = −log σ(r_w − r_l)",
        _LLAMA,
        _zero_margin,
        cases=pairs,
        applies=about("margins"),
    ),
    claim(
        "margin-is-a-handicap",
        "L(r_w, r_l, m) = L(r_w − m, r_l, 0)",
        _LLAMA,
        _handicap,
        cases=pairs,
        applies=about("margins"),
    ),
    claim(
        "opposite-scores-are-bradley-terry",
        "at r_w = −r_l, L and g are those of bradley_terry: the centring fixes a level and leaves the difference",
        _CENTRED,
        _opposite_scores,
        cases=pairs,
        applies=about("coef"),
    ),
    claim(
        "penalty-is-squared-sum",
        "L = L(at r_w = −r_l) + coef (r_w + r_l)²",
        _CENTRED,
        _squared_sum,
        cases=pairs,
        applies=about("coef"),
    ),
    claim(
        "scale-is-a-unit",
        "with scores and scale c times as large L is the same and g a c-th: the scale is a unit of scores",
        "Thurstone 1927",
        _unit_of_noise,
        cases=pairs,
        applies=about("scale"),
    ),
    claim(
        "probit-near-logit",
        "exp(−L) is within 0.0095 of σ(1.702 (r_w − r_l) / (√2 scale))",
        "Haley 1952; Camilli 1994",
        _near_logit,
        cases=pairs,
        applies=about("scale"),
    ),
]
