"""Mutants of losses on pairs that may be tied. In their formulas d is the difference r_w − r_l."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.types import Scores

from .mutant import Mutant, variants
from .reward_model_bases import Thresholded, Tied

__all__ = ["MUTANTS"]


class TiesFromScores(Thresholded):
    """Calls equal scores a tie, not equal ranks."""

    name = "ties_from_scores"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return torch.where((d == 0) & self.possible, self.tie(d), self.win(d))


class TiesLeftOut(Tied):
    name = "ties_left_out"

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        won = super().loss(d, c, r, batch)
        return torch.where(won == self.tie(d), 0 * d, won)


_WIN: dict[str, Any] = {
    "threshold without its logarithm": lambda s, d: -logsigmoid(d - s.theta),
    "threshold of the other sign": lambda s, d: -logsigmoid(d + math.log(s.theta)),
    "threshold not read in wins": lambda s, d: -logsigmoid(d),
    "threshold as a factor": lambda s, d: -logsigmoid(d / s.theta),
    "half the threshold": lambda s, d: -logsigmoid(d - 0.5 * math.log(s.theta)),
    "squared threshold": lambda s, d: -logsigmoid(d - 2 * math.log(s.theta)),
    "D14 win": lambda s, d: -(d - math.log(s.theta)).sigmoid().log(),
}

_TIE: dict[str, Any] = {
    "room for ties forgotten": lambda s, d: -logsigmoid(d - math.log(s.theta)) - logsigmoid(-d - math.log(s.theta)),
    "theta - 1 of room": lambda s, d: (
        -math.log(max(s.theta - 1, 1e-9)) - logsigmoid(d - math.log(s.theta)) - logsigmoid(-d - math.log(s.theta))
    ),
    "tie as a win": lambda s, d: -logsigmoid(d - math.log(s.theta)),
    "tie as half a win and half a loss": lambda s, d: -0.5 * (logsigmoid(d) + logsigmoid(-d)),
    "tie without threshold": lambda s, d: -math.log(max(s.theta**2 - 1, 1e-9)) - logsigmoid(d) - logsigmoid(-d),
    "tie as a win within the threshold": lambda s, d: -logsigmoid(math.log(s.theta) - d.abs()),
    "tie told nothing": lambda s, d: 0 * d,
    "tie of the other sign": lambda s, d: -Thresholded.tie(s, d),
    "squared difference of a tie": lambda s, d: 0.5 * d.square(),
}

_DAVIDSON_WIN: dict[str, Any] = {
    "nu not read in wins": lambda s, d: -logsigmoid(d),
    "whole difference beside nu": lambda s, d: torch.logaddexp(
        torch.nn.functional.softplus(-d), (-d + torch.full_like(d, max(s.nu, 1e-30)).log())
    ),
    "nu without the mean": lambda s, d: torch.logaddexp(
        torch.nn.functional.softplus(-d), torch.full_like(d, max(s.nu, 1e-30)).log()
    ),
    "twice nu": lambda s, d: torch.logaddexp(
        torch.nn.functional.softplus(-d), -d / 2 + torch.full_like(d, max(2 * s.nu, 1e-30)).log()
    ),
    "swapped": lambda s, d: Tied.win(s, -d),
    "overflowing": lambda s, d: (1 + (-d).exp() + s.nu * (-d / 2).exp()).log(),
}

_DAVIDSON_TIE: dict[str, Any] = {
    "strength of a tie forgotten": lambda s, d: s.whole(d),
    "tie as a win": lambda s, d: Tied.win(s, d),
    "arithmetic mean": lambda s, d: (
        s.whole(d) - math.log(max(s.nu, 1e-30)) - torch.logaddexp(d / 2, -d / 2) + math.log(2)
    ),
    "tie as half a win and half a loss": lambda s, d: 0.5 * (Tied.win(s, d) + Tied.win(s, -d)),
    "nu squared": lambda s, d: s.whole(d) - 2 * math.log(max(s.nu, 1e-30)),
    "lopsided tie": lambda s, d: Tied.tie(s, d) + 0.1 * d,
    "tie where scores are equal only": lambda s, d: Tied.tie(s, d).detach() + 0 * d,
}

MUTANTS: list[Mutant] = [
    *variants(Thresholded, "win", _WIN, "rao_kupper"),
    *variants(Thresholded, "tie", _TIE, "rao_kupper"),
    *variants(Tied, "win", _DAVIDSON_WIN, "davidson"),
    *variants(Tied, "tie", _DAVIDSON_TIE, "davidson"),
    Mutant("ties of equal scores", TiesFromScores, "rao_kupper"),
    Mutant("ties left out", TiesLeftOut, "davidson"),
]
