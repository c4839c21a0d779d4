"""Definitions of record of role reward_model: the chance of what was observed, and by hand its slope in each score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import combinations
from typing import Any, Final

from rlhf_lab.conformance.definitions.candidatewise import Formula, Row, candidatewise, odds
from rlhf_lab.conformance.definitions.definition import Definition

__all__ = ["DEFINITIONS"]

_TAIL: Final = 30.0  # standard deviations beyond which the normal tail is an asymptotic series, exact to 1e-10


def _surprise(chance: Decimal) -> float:
    return float(-chance.ln())


def _comparison(better: float, worse: float) -> tuple[float, float]:
    """Return −log of the probability that the better one wins, and that it loses: the size of both slopes."""
    win, lose = odds(better), odds(worse)
    return _surprise(win / (win + lose)), float(lose / (win + lose))


def _bradley_terry(row: Row) -> tuple[float, Sequence[float]]:
    loss, slope = _comparison(*row.scores)
    return loss, (-slope, slope)


def _margin(row: Row) -> tuple[float, Sequence[float]]:
    loss, slope = _comparison(row.scores[0] - row.whole["margins"], row.scores[1])
    return loss, (-slope, slope)


def _centred(row: Row, coef: float) -> tuple[float, Sequence[float]]:
    loss, slope = _comparison(*row.scores)
    level = math.fsum(row.scores)
    return loss + coef * level**2, (2 * coef * level - slope, 2 * coef * level + slope)


def _soft(row: Row) -> tuple[float, Sequence[float]]:
    first, second = row.scores
    chance = row.whole["preference_prob"]
    (won, _), (lost, model) = _comparison(first, second), _comparison(second, first)
    return chance * won + (1 - chance) * lost, (model - chance, chance - model)


def _thurstone(row: Row, scale: float) -> tuple[float, Sequence[float]]:
    unit = math.sqrt(2) * scale
    loss, slope = _normal_tail((row.scores[1] - row.scores[0]) / unit)
    return loss, (-slope / unit, slope / unit)


def _normal_tail(x: float) -> tuple[float, float]:
    """Return −log P(N > x) of a standard normal N, and its derivative: the density over the tail."""
    density = -0.5 * x * x - 0.5 * math.log(2 * math.pi)  # its logarithm
    if x < 0:
        below = 0.5 * math.erfc(-x / math.sqrt(2))
        return -math.log1p(-below), math.exp(density) / (1 - below)
    if x < _TAIL:
        tail = 0.5 * math.erfc(x / math.sqrt(2))
        return -math.log(tail), math.exp(density) / tail
    series = 1 - x**-2 + 3 * x**-4 - 15 * x**-6  # of x times tail over density
    return math.log(x) - density - math.log(series), x / series


def _rao_kupper(row: Row, theta: float) -> tuple[float, Sequence[float]]:
    p, q = map(odds, row.scores)
    t = Decimal(theta)
    beaten, beats = float(t * q / (p + t * q)), float(t * p / (q + t * p))  # that neither wins nor ties, both ways
    if not _tied(row):
        return _surprise(p / (p + t * q)), (-beaten, beaten)
    tie = (t * t - 1) * p * q / ((p + t * q) * (q + t * p))
    return _surprise(tie), (beats - beaten, beaten - beats)


def _davidson(row: Row, nu: float) -> tuple[float, Sequence[float]]:
    p, q = map(odds, row.scores)
    tie = Decimal(nu) * (p * q).sqrt()
    whole = p + q + tie
    first, second = float((p + tie / 2) / whole), float((q + tie / 2) / whole)  # half a point for a tie
    if not _tied(row):
        return _surprise(p / whole), (first - 1, second)
    return _surprise(tie / whole), (first - 0.5, second - 0.5)


def _tied(row: Row) -> bool:
    first, second = row.each["ranks"]
    return bool(first == second)


def _plackett_luce(row: Row) -> tuple[float, Sequence[float]]:
    """Choose place after place among those left; the slope is how often one was expected to be chosen, less 1."""
    strengths = [odds(score) for score in row.scores]
    chance, slopes = Decimal(1), [-1.0] * len(strengths)
    for place in range(len(strengths)):
        left = sum(strengths[place:])
        chance *= strengths[place] / left
        for i in range(place, len(strengths)):
            slopes[i] += float(strengths[i] / left)
    return _surprise(chance), slopes


def _pairwise(row: Row) -> tuple[float, Sequence[float]]:
    pairs = list(combinations(range(len(row.scores)), 2))
    loss, slopes = 0.0, [0.0] * len(row.scores)
    for i, j in pairs:
        surprise, slope = _comparison(row.scores[i], row.scores[j])
        loss += surprise / len(pairs)
        slopes[i] -= slope / len(pairs)
        slopes[j] += slope / len(pairs)
    return loss, slopes


def _shares(scores: Sequence[float]) -> list[Decimal]:
    strengths = [odds(score) for score in scores]
    return [each / sum(strengths) for each in strengths]


def _best(row: Row) -> tuple[float, Sequence[float]]:
    shares = _shares(row.scores)
    return _surprise(shares[0]), [float(share) - (i == 0) for i, share in enumerate(shares)]


def _listnet(row: Row) -> tuple[float, Sequence[float]]:
    shares, due = _shares(row.scores), _shares(row.each["targets"])
    loss = -sum(y * share.ln() for y, share in zip(due, shares, strict=True))
    return float(loss), [float(share - y) for y, share in zip(due, shares, strict=True)]


def _regression(row: Row) -> tuple[float, Sequence[float]]:
    errors = [s - y for s, y in zip(row.scores, row.each["targets"], strict=True)]
    return math.fsum(e**2 for e in errors) / len(errors), [2 * e / len(errors) for e in errors]


def _pointwise(row: Row) -> tuple[float, Sequence[float]]:
    """Compare each score with 0, as the odds of being good."""
    found = []
    for score, y in zip(row.scores, row.each["targets"], strict=True):
        (good, _), (bad, chance) = _comparison(score, 0.0), _comparison(0.0, score)
        found.append((y * good + (1 - y) * bad, chance - y))
    count = len(found)
    return math.fsum(loss for loss, _ in found) / count, [slope / count for _, slope in found]


def _record(
    name: str,
    statement: str,
    reference: str,
    formula: Formula,
    parameters: Mapping[str, Any] | None = None,
    *,
    reads: str = "",
    at_least: int = 2,
) -> Definition:
    answer, fields = candidatewise(formula, at_least), frozenset(reads.split())
    return Definition("reward_model", name, statement, reference, parameters or {}, answer, reads=fields)


DEFINITIONS: list[Definition] = [
    _record("bradley_terry", "L = −log e^{r_w} / (e^{r_w} + e^{r_l})", "Bradley & Terry 1952", _bradley_terry),
    _record(
        "bradley_terry_margin",
        "L = −log e^{r_w − m} / (e^{r_w − m} + e^{r_l})",
        "Touvron et al. 2023 (Llama 2), eq. 2",
        _margin,
        reads="margins",
    ),
    _record(
        "bradley_terry_centred",
        "L = −log e^{r_w} / (e^{r_w} + e^{r_l}) + coef (r_w + r_l)²",
        "Eisenstein et al. 2023",
        _centred,
        {"coef": 0.01},
    ),
    _record(
        "soft_bradley_terry",
        "L = −p log P(1 beats 2) − (1 − p) log P(2 beats 1)",
        "Christiano et al. 2017, section 2.2.3",
        _soft,
        reads="preference_prob",
    ),
    _record(
        "thurstone",
        "L = −log Φ((r_w − r_l) / (√2 scale))",
        "Thurstone 1927",
        _thurstone,
        {"scale": 1.0},
    ),
    _record(
        "rao_kupper",
        "P(win) = p / (p + θ q), P(tie) = (θ² − 1) p q / ((p + θ q)(q + θ p)), p = e^{r_w}, q = e^{r_l}",
        "Rao & Kupper 1967",
        _rao_kupper,
        {"theta": 2.0},
        reads="ranks",
    ),
    _record(
        "davidson",
        "P(win) = p / (p + q + ν √(p q)), P(tie) = ν √(p q) / (p + q + ν √(p q)), p = e^{r_w}, q = e^{r_l}",
        "Davidson 1970",
        _davidson,
        {"nu": 1.0},
        reads="ranks",
    ),
    _record(
        "plackett_luce",
        "L = −log Π_k e^{s_k} / Σ_{j ≥ k} e^{s_j}",
        "Plackett 1975; Luce 1959",
        _plackett_luce,
    ),
    _record(
        "pairwise_of_k",
        "L = the mean over pairs i < j of −log e^{s_i} / (e^{s_i} + e^{s_j})",
        "Ouyang et al. 2022, eq. 1",
        _pairwise,
    ),
    _record(
        "listnet_best",
        "L = −log e^{s_1} / Σ_j e^{s_j}",
        "Luce 1959; Cao et al. 2007 (ListNet)",
        _best,
    ),
    _record(
        "listnet",
        "L = −Σ_i q_i log e^{s_i} / Σ_j e^{s_j}, q_i = e^{y_i} / Σ_j e^{y_j}",
        "Cao et al. 2007 (ListNet)",
        _listnet,
        reads="targets",
    ),
    _record(
        "regression",
        "L = 1/K Σ_i (s_i − y_i)²",
        "Hastie et al. 2009, eq. 2.10",
        _regression,
        reads="targets",
        at_least=1,
    ),
    _record(
        "pointwise_bce",
        "L = 1/K Σ_i [−y_i log P_i − (1 − y_i) log(1 − P_i)], P_i = e^{s_i} / (1 + e^{s_i})",
        "Cox 1958; Cobbe et al. 2021",
        _pointwise,
        reads="targets",
        at_least=1,
    ),
]
