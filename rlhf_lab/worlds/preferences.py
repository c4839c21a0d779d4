"""Probabilities of preferences between responses with known scores: Bradley-Terry, Plackett-Luce, and models of ties.

Scores are rewards; they are divided by ``temperature`` first. At temperature 0 the higher score always wins, and equal
ones share what they would win.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_lab.worlds.checks import demand

__all__ = ["Outcomes", "bradley_terry", "davidson", "plackett_luce", "rao_kupper"]


class Outcomes(NamedTuple):
    """The probabilities that the first one wins, that nobody does, and that the second one wins."""

    win: Tensor
    tie: Tensor
    loss: Tensor


def bradley_terry(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the probability that ``first`` beats ``second``, σ((s_1 - s_2) / T), for scores that broadcast.

    Source: Bradley and Terry 1952, "Rank analysis of incomplete block designs", with p_i = exp(s_i / T).
    """
    difference = first - second
    if temperature == 0:
        return (difference.sign() + 1) / 2
    return (difference / _checked(temperature)).sigmoid()


def plackett_luce(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log P that ``scores [*b,k]`` are ranked as they stand, best first: ``[*b]``.

    log P = Σ_j [s_j - log Σ_{l >= j} exp(s_l)], s divided by T: the best is drawn by softmax, then the best of the rest

    Source: Plackett 1975, "The analysis of permutations"; Luce 1959, "Individual choice behavior".
    """
    if temperature == 0:
        best = scores.flip(-1).cummax(-1).values.flip(-1)  # of those that are left at each place
        later = scores[..., None, :] == best[..., :, None]
        ties = (later & torch.ones_like(later).triu()).sum(-1)
        return -torch.where(scores == best, ties.log(), math.inf).to(scores.dtype).sum(-1)
    scores = scores / _checked(temperature)
    return (scores - scores.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)


def rao_kupper(first: Tensor, second: Tensor, threshold: float, temperature: float = 1.0) -> Outcomes:
    """Return the outcomes where only a clear difference is seen: p_1 / (p_1 + θ p_2) is a win, θ >= 1; 1 = no ties.

    The tie has the rest, (θ² - 1) P(win) P(loss).

    Source: Rao and Kupper 1967, "Ties in paired-comparison experiments: a generalization of the Bradley-Terry model".
    """
    demand(threshold >= 1, "threshold", "a number of at least 1 (1 = no ties)", threshold)
    difference = (first - second) / _checked(temperature)
    win = (difference - math.log(threshold)).sigmoid()
    loss = (-difference - math.log(threshold)).sigmoid()
    return Outcomes(win, (threshold**2 - 1) * win * loss, loss)


def davidson(first: Tensor, second: Tensor, ties: float, temperature: float = 1.0) -> Outcomes:
    """Return the outcomes in proportion to p_1 : ν √(p_1 p_2) : p_2, with ``ties`` = ν >= 0; 0 = no ties.

    Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties in paired comparisons".
    """
    demand(ties >= 0, "ties", "a number of at least 0 (0 = no ties)", ties)
    half = (first - second) / (2 * _checked(temperature))
    weight = torch.full_like(half, math.log(ties) if ties else -math.inf)
    return Outcomes(*torch.stack([half, weight, -half]).softmax(0))


def _checked(temperature: float) -> float:
    demand(temperature > 0 and math.isfinite(temperature), "temperature", "a number above 0", temperature)
    return temperature
