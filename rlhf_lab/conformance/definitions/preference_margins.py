"""Definitions of record of losses on one margin: with a coin, a square or a hinge on it.

Throughout h is log(π/π_ref) of the chosen response less that of the rejected one, a and b are both, w and l are the
log-probabilities, and |w| and |l| the lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from rlhf_lab.conformance.definitions.candidatewise import Row
from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.responses import (
    BETA,
    Slopes,
    by_row,
    coin,
    kink,
    log_ratios,
    margin,
    per_token,
    record,
)

__all__ = ["DEFINITIONS"]

_SMOOTHED: Final = {"beta": 0.1, "label_smoothing": 0.1}
_RARE: Final = 60.0  # a response is so rare, its u below e^−60, that a loss may hold its reward


def _even(loss: float, slope: float) -> Slopes:
    """Return the slopes of a loss of h: equal and opposite."""
    return loss, (slope, -slope)


def _cdpo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    preference, e = coin(beta * margin(row)), label_smoothing
    loss = (1 - e) * preference.heads_surprise + e * preference.tails_surprise
    return _even(loss, beta * (e - preference.tails))


def _robust_dpo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    preference, e = coin(beta * margin(row)), label_smoothing
    loss = (1 - e) * preference.heads_surprise - e * preference.tails_surprise
    slope = -(1 - e) * preference.tails - e * preference.heads
    return _even(loss / (1 - 2 * e), beta * slope / (1 - 2 * e))


def _ipo(row: Row, beta: float, soft_labels: bool) -> Slopes:
    chance = row.whole["preference_prob"] if soft_labels else 1.0
    off = margin(row) - (chance - 0.5) / beta
    return _even(off**2, 2 * off)


def _hinge(row: Row, beta: float) -> Slopes:
    lacking = 1 - beta * margin(row)
    return _even(max(0.0, lacking), kink(lacking, 0.0, -beta))


def _exo(row: Row, beta: float, label_smoothing: float) -> Slopes:
    z, e = beta * margin(row), label_smoothing
    q, rest, surprise, other = coin(z)
    loss = -q * (surprise + math.log(1 - e)) - rest * (other + math.log(e))
    return _even(loss, beta * q * rest * (z - math.log((1 - e) / e)))


def _rpo_reward_aware(row: Row, beta: float, eta: float) -> Slopes:
    preference, due = coin(beta * margin(row)), coin(eta * row.whole["margins"])
    loss = due.heads * (preference.heads_surprise - due.heads_surprise)
    loss += due.tails * (preference.tails_surprise - due.tails_surprise)
    return _even(loss, beta * (preference.heads - due.heads))


def _discopop(row: Row, beta: float, tau: float) -> Slopes:
    z = beta * margin(row)
    gate, logistic = coin(z / tau), coin(z)
    steep = float((Decimal(-gate.heads_surprise) - Decimal(z)).exp())  # g e^{-z}, of which either may overflow
    rise = gate.tails / tau * steep - gate.heads * gate.tails / tau * logistic.heads_surprise
    loss = gate.tails * logistic.heads_surprise + steep
    return _even(loss, beta * (rise - gate.tails * logistic.tails - steep))


def _f_dpo(row: Row, beta: float, divergence: str, alpha: float) -> Slopes:
    (first, rise), (second, other_rise) = (_of_divergence(x, divergence, alpha) for x in log_ratios(row))
    preference = coin(beta * (first - second))
    pull = beta * preference.tails
    return preference.heads_surprise, (-pull * rise, pull * other_rise)


def _of_divergence(a: float, divergence: str, alpha: float) -> tuple[float, float]:
    """Return f'(u) at u = e^a up to a number, and its derivative by a; no numbers where those are too large."""
    if divergence == "reverse":
        return a, 1.0
    if divergence == "js":
        relative = coin(a)
        return -relative.heads_surprise, relative.tails
    order = alpha if divergence == "alpha" else 1.0
    if -order * a > _RARE:
        return math.nan, math.nan
    return (1 - math.exp(-order * a)) / order, math.exp(-order * a)


def _dpo_norm(row: Row, beta: float) -> Slopes:
    return _logistic(row, per_token([beta * x for x in log_ratios(row)], row), [beta, beta])


def _r_dpo(row: Row, beta: float, alpha: float) -> Slopes:
    lengths = row.each["lengths"]
    preference = coin(beta * margin(row) + alpha * (lengths[0] - lengths[1]))
    return _even(preference.heads_surprise, -beta * preference.tails)


def _simpo(row: Row, beta: float, gamma: float) -> Slopes:
    chosen, rejected = per_token([beta * x for x in row.scores], row)
    return _logistic(row, [chosen - gamma, rejected], [beta, beta])


def _logistic(row: Row, rewards: Sequence[float], scale: Sequence[float]) -> Slopes:
    """Compare rewards that move by ``scale`` per token with the log-probabilities."""
    preference = coin(rewards[0] - rewards[1])
    first, second = per_token(scale, row)
    return preference.heads_surprise, (-first * preference.tails, second * preference.tails)


DEFINITIONS: list[Definition] = [
    record(
        "cdpo",
        "L = −(1 − e) log σ(β h) − e log σ(−β h), e = label_smoothing",
        "Mitchell 2023, A note on DPO with noisy preferences",
        by_row(_cdpo),
        _SMOOTHED,
    ),
    record(
        "robust_dpo",
        "L = [−(1 − e) log σ(β h) + e log σ(−β h)] / (1 − 2 e), e = label_smoothing",
        "Chowdhury et al. 2024 (robust DPO)",
        by_row(_robust_dpo),
        _SMOOTHED,
    ),
    record(
        "ipo",
        "L = (h − 1/(2 β))² of sums over tokens; with soft_labels (h − (p − ½)/β)²",
        "Azar et al. 2023, eq. 17",
        by_row(_ipo),
        {**BETA, "soft_labels": False},
        "ref_log_probs preference_prob",
    ),
    record("hinge", "L = max(0, 1 − β h)", "Liu et al. 2023 (RSO)", by_row(_hinge), BETA),
    record(
        "exo",
        "L = q log(q/(1 − e)) + (1 − q) log((1 − q)/e), q = σ(β h), e = label_smoothing",
        "Ji et al. 2024, eq. 16",
        by_row(_exo),
        {"beta": 0.1, "label_smoothing": 1e-3},
    ),
    record(
        "rpo_reward_aware",
        "L = KL(σ(η Δr) ‖ σ(β h)) of two coins",
        "Nvidia 2024 (Nemotron-4), section 3.3.2",
        by_row(_rpo_reward_aware),
        {**BETA, "eta": 1.0},
        "ref_log_probs margins",
    ),
    record(
        "discopop",
        "L = (1 − g) (−log σ(z)) + g e^{−z}, z = β h, g = σ(z/tau)",
        "Lu et al. 2024, eq. 5",
        by_row(_discopop),
        {**BETA, "tau": 0.05},
    ),
    record(
        "f_dpo",
        "L = −log σ(β (f'(e^a) − f'(e^b))), f' = log u (reverse), −1/u (forward), log(u/(1 + u)) (js) or "
        "(1 − u^−alpha)/alpha, where no power of u is above e^60",
        "Wang et al. 2023 (f-DPO), theorem 1 and table 1",
        by_row(_f_dpo),
        {**BETA, "divergence": "reverse", "alpha": 0.5},
    ),
    record(
        "dpo_norm",
        "L = −log σ(β (a/|w| − b/|l|))",
        "Lambert et al. 2024 (Tulu 3), eq. 6",
        by_row(_dpo_norm),
        {"beta": 5.0},
        "ref_log_probs lengths",
    ),
    record(
        "r_dpo",
        "L = −log σ(β h + alpha (|w| − |l|))",
        "Park et al. 2024, eq. 9",
        by_row(_r_dpo),
        {**BETA, "alpha": 0.05},
        "ref_log_probs lengths",
    ),
    record(
        "simpo",
        "L = −log σ(β w/|w| − β l/|l| − gamma)",
        "Meng et al. 2024, eq. 6",
        by_row(_simpo),
        {"beta": 2.0, "gamma": 1.0},
        "lengths",
    ),
]
