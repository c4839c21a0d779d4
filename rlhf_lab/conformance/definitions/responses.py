"""What definitions of record on responses are written in: log-ratios, coins, and the comparison of two responses.

A coin with log-odds x falls on heads with the probability odds / (1 + odds). It is written with the odds e^x
themselves, in decimal numbers, so that nothing is lost far from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from torch import Tensor

from rlhf_lab.conformance.definitions.candidatewise import Row, candidatewise, odds
from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.stepwise import EDGE

__all__ = [
    "BETA",
    "Coin",
    "Slopes",
    "by_row",
    "coin",
    "comparison",
    "kink",
    "log_ratios",
    "margin",
    "per_token",
    "record",
]

Slopes = tuple[float, Sequence[float]]  # a row's loss, and its slope in the log-probability of each response

BETA: Final = {"beta": 0.1}
_CERTAIN: Final = 1e6  # log-odds beyond which a coin falls on one side for every purpose


class Coin(NamedTuple):
    """How probable heads and tails are, and how surprising (−log of the probability)."""

    heads: float
    tails: float
    heads_surprise: float
    tails_surprise: float


def coin(log_odds: float) -> Coin:
    """Return what is told of a coin with these log-odds of heads."""
    if abs(log_odds) > _CERTAIN:
        return Coin(float(log_odds > 0), float(log_odds < 0), max(-log_odds, 0.0), max(log_odds, 0.0))
    won = odds(log_odds)
    heads, tails = won / (1 + won), 1 / (1 + won)
    return Coin(float(heads), float(tails), float(-heads.ln()), float(-tails.ln()))


def log_ratios(row: Row) -> list[float]:
    """Return log(π/π_ref) of each valid response."""
    return [own - ref for own, ref in zip(row.scores, row.each["ref_log_probs"], strict=True)]


def per_token(numbers: Sequence[float], row: Row) -> list[float]:
    """Return numbers of the responses, each divided by the response's length."""
    return [x / n for x, n in zip(numbers, row.each["lengths"], strict=True)]


def kink(distance: float, below: float, above: float) -> float:
    """Return the slope at a signed ``distance`` from a kink: NaN on it."""
    return math.nan if abs(distance) <= EDGE else above if distance > 0 else below


def margin(row: Row) -> float:
    """Return log(π/π_ref) of the chosen response less that of the rejected one."""
    a, b = log_ratios(row)
    return a - b


def comparison(row: Row, beta: float) -> Slopes:
    """Return −log of the probability that the chosen response wins: the loss of dpo."""
    preference = coin(beta * margin(row))
    return preference.heads_surprise, (-beta * preference.tails, beta * preference.tails)


def by_row(formula: Callable[..., Slopes], at_least: int = 2) -> Callable[..., Mapping[str, Tensor]]:
    """Return the answer of a definition that treats each row alone, by the log-probabilities of its responses."""
    return candidatewise(formula, at_least, "log_probs")


def record(
    name: str,
    statement: str,
    reference: str,
    answer: Callable[..., Mapping[str, Tensor]],
    parameters: Mapping[str, Any],
    reads: str = "ref_log_probs",
) -> Definition:
    """Return a definition of record that reads the fields named in ``reads``."""
    return Definition("preference", name, statement, reference, parameters, answer, reads=frozenset(reads.split()))
