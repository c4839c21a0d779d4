"""Definitions of record of losses that treat each of a pair's responses for itself, or imitate the chosen one.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, w and l their log-probabilities, |w| and
|l| their lengths, and h = a − b.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Final

from rlhf_lab.conformance.definitions.candidatewise import Row
from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.responses import (
    BETA,
    Slopes,
    by_row,
    coin,
    comparison,
    kink,
    log_ratios,
    per_token,
    record,
)

__all__ = ["DEFINITIONS"]

_CERTAIN: Final = -1e-12  # a log-probability per token beyond which the odds of orpo are not defined


def _dpop(row: Row, beta: float, lam: float) -> Slopes:
    a, b = log_ratios(row)
    preference = coin(beta * (a - b - lam * max(0.0, -a)))
    pull = beta * preference.tails
    return preference.heads_surprise, (-pull * (1 if lam == 0 else kink(a, 1 + lam, 1.0)), pull)


def _sppo(row: Row, beta: float, soft_labels: bool) -> Slopes:
    a, b = log_ratios(row)
    chance = row.whole["preference_prob"] if soft_labels else 1.0
    off, other_off = a - (chance - 0.5) / beta, b - (0.5 - chance) / beta
    return off**2 + other_off**2, (2 * off, 2 * other_off)


def _nca(row: Row, beta: float) -> Slopes:
    chosen, rejected = (coin(beta * x) for x in log_ratios(row))
    loss = chosen.heads_surprise + 0.5 * (chosen.tails_surprise + rejected.tails_surprise)
    return loss, (beta * (0.5 * chosen.heads - chosen.tails), 0.5 * beta * rejected.heads)


def _bco(row: Row, beta: float, shift: float) -> Slopes:
    chosen, rejected = (coin(beta * x - shift) for x in log_ratios(row))
    return chosen.heads_surprise + rejected.tails_surprise, (-beta * chosen.tails, beta * rejected.heads)


def _apo_zero(row: Row, beta: float) -> Slopes:
    chosen, rejected = (coin(beta * x) for x in log_ratios(row))
    slopes = (-beta * chosen.heads * chosen.tails, beta * rejected.heads * rejected.tails)
    return chosen.tails + rejected.heads, slopes


def _apo_down(row: Row, beta: float) -> Slopes:
    a, b = log_ratios(row)
    chosen, preference = coin(beta * a), coin(beta * (a - b))
    pull = beta * preference.heads * preference.tails
    return chosen.heads + preference.tails, (beta * chosen.heads * chosen.tails - pull, pull)


def _orpo(row: Row, lam: float) -> Slopes:
    w, r = per_token(row.scores, row)
    (odds, rise), (other_odds, other_rise) = _odds(w), _odds(r)
    lost = float(other_odds / (odds + other_odds))
    slopes = per_token([-1 - lam * lost * rise, lam * lost * other_rise], row)
    return -w + lam * float(-(odds / (odds + other_odds)).ln()), slopes


def _odds(log_prob: float) -> tuple[Decimal, float]:
    """Return p / (1 − p), and the derivative of its logarithm by log p; no numbers for a p next to 1."""
    if log_prob > _CERTAIN:
        return Decimal("NaN"), math.nan
    p = Decimal(log_prob).exp()
    return p / (1 - p), float(1 / (1 - p))


def _sft(row: Row, per_token: bool) -> Slopes:
    share = 1 / row.each["lengths"][0] if per_token else 1.0
    return -share * row.scores[0], [-share, *[0.0] * (len(row.scores) - 1)]


def _cpo(row: Row, beta: float, lam: float) -> Slopes:
    w, r = row.scores
    preference = coin(beta * (w - r))
    pull = beta * preference.tails
    return preference.heads_surprise - lam * w, (-pull - lam, pull)


def _slic(row: Row, delta: float, lam: float) -> Slopes:
    w, r = row.scores
    lacking = delta - (w - r)
    pull = kink(lacking, 0.0, 1.0)
    return max(0.0, lacking) - lam * w, (-pull - lam, pull)


def _rpo_iterative(row: Row, beta: float, alpha: float) -> Slopes:
    return _imitating(comparison(row, beta), row, alpha / row.each["lengths"][0])


def _rpo_sft(row: Row, beta: float, eta: float) -> Slopes:
    return _imitating(comparison(row, beta), row, eta * beta)


def _imitating(preference: Slopes, row: Row, weight: float) -> Slopes:
    loss, (chosen, rejected) = preference
    return loss - weight * row.scores[0], (chosen - weight, rejected)


DEFINITIONS: list[Definition] = [
    record(
        "dpop",
        "L = −log σ(β (h − lam max(0, −a)))",
        "Pal et al. 2024 (Smaug), eq. 3",
        by_row(_dpop),
        {**BETA, "lam": 50.0},
    ),
    record(
        "sppo",
        "L = (a − 1/(2 β))² + (b + 1/(2 β))²; with soft_labels ±(p − ½)/β in place of ±1/(2 β)",
        "Wu et al. 2024 (SPPO), eq. 4.7",
        by_row(_sppo),
        {**BETA, "soft_labels": False},
        "ref_log_probs preference_prob",
    ),
    record(
        "nca",
        "L = −log σ(β a) − ½ log σ(−β a) − ½ log σ(−β b)",
        "Chen et al. 2024 (arXiv 2402.05369)",
        by_row(_nca),
        BETA,
    ),
    record(
        "bco",
        "L = −log σ(β a − δ) − log σ(−(β b − δ)), δ = shift",
        "Jung et al. 2024 (arXiv 2404.04656)",
        by_row(_bco),
        {**BETA, "shift": 0.0},
    ),
    record("apo_zero", "L = 1 − σ(β a) + σ(β b)", "D'Oosterlinck et al. 2024, eq. 7", by_row(_apo_zero), BETA),
    record("apo_down", "L = σ(β a) + 1 − σ(β h)", "D'Oosterlinck et al. 2024, eq. 8", by_row(_apo_down), BETA),
    record(
        "orpo",
        "L = −log p_w − lam log σ(log odds(p_w) − log odds(p_l)), log p = log π / length, for log p ≤ −1e-12",
        "Hong et al. 2024, eq. 6 and 7",
        by_row(_orpo),
        {"lam": 0.1},
        "lengths",
    ),
    record(
        "sft",
        "L = −log π of the best response, with per_token divided by its length",
        "Ouyang et al. 2022, section 3.5",
        by_row(_sft, at_least=1),
        {"per_token": False},
        "lengths",
    ),
    record(
        "cpo",
        "L = −log σ(β (w − l)) − lam w",
        "Xu et al. 2024 (CPO), eq. 3 to 5",
        by_row(_cpo),
        {**BETA, "lam": 1.0},
        "",
    ),
    record(
        "slic",
        "L = max(0, delta − w + l) − lam w",
        "Zhao et al. 2023 (SLiC-HF), eq. 1",
        by_row(_slic),
        {"delta": 1.0, "lam": 0.1},
        "",
    ),
    record(
        "rpo_iterative",
        "L = −log σ(β h) − alpha w/|w|",
        "Pang et al. 2024 (arXiv 2404.19733), eq. 1",
        by_row(_rpo_iterative),
        {**BETA, "alpha": 1.0},
        "ref_log_probs lengths",
    ),
    record(
        "rpo_sft",
        "L = −log σ(β h) − eta β w",
        "Liu et al. 2024 (arXiv 2405.16436), algorithm 2",
        by_row(_rpo_sft),
        {**BETA, "eta": 0.005},
    ),
]
