"""Mutants of losses on pairs. In their formulas d is the difference c − r of the scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from .mutant import Mutant, variants
from .reward_model_bases import Centred, Drawn, Margin, Pairs, Soft

__all__ = ["MUTANTS"]


def _probit(x: Tensor) -> Tensor:
    return torch.special.log_ndtr(x)


_BRADLEY_TERRY: dict[str, Any] = {
    "D14 -log(sigmoid(d))": lambda _, d, c, r, b: -d.sigmoid().log(),
    "D14 log(1 + exp(-d))": lambda _, d, c, r, b: (1 + (-d).exp()).log(),
    "E36 log sigmoid of each score": lambda _, d, c, r, b: logsigmoid(r) - logsigmoid(c),
    "D11 chosen and rejected swapped": lambda _, d, c, r, b: -logsigmoid(-d),
    "overall sign": lambda _, d, c, r, b: logsigmoid(d),
    "sum for difference": lambda _, d, c, r, b: -logsigmoid(c + r),
    "size of the difference": lambda _, d, c, r, b: -logsigmoid(d.abs()),
    "one score only": lambda _, d, c, r, b: -logsigmoid(c) + 0 * r,
    "probability for its logarithm": lambda _, d, c, r, b: (-d).sigmoid(),
    "hinge": lambda _, d, c, r, b: relu(1 - d),
    "squared distance from 1": lambda _, d, c, r, b: (1 - d).square(),
    "exponential": lambda _, d, c, r, b: (-d.clamp(-80, 80)).exp(),
    "logarithm of base 2": lambda _, d, c, r, b: -logsigmoid(d) / math.log(2),
    "half": lambda _, d, c, r, b: -0.5 * logsigmoid(d),
    "temperature of a half": lambda _, d, c, r, b: -logsigmoid(2 * d),
    "temperature of 2": lambda _, d, c, r, b: -2 * logsigmoid(d / 2),
    "difference held within 5": lambda _, d, c, r, b: -logsigmoid(d.clamp(-5, 5)),
    "difference held within 20": lambda _, d, c, r, b: -logsigmoid(d.clamp(-20, 20)),
    "small probability added": lambda _, d, c, r, b: -(d.sigmoid() + 1e-6).log(),
    "rejected score detached": lambda _, d, c, r, b: -logsigmoid(c - r.detach()),
    "no gradient": lambda _, d, c, r, b: -logsigmoid(d.detach()) + 0 * d,
    "focal weight": lambda _, d, c, r, b: -(-d).sigmoid().detach() * logsigmoid(d),
    "smoothed label": lambda _, d, c, r, b: -0.9 * logsigmoid(d) - 0.1 * logsigmoid(-d),
    "squared scores pulled to 0": lambda _, d, c, r, b: -logsigmoid(d) + 0.01 * (c.square() + r.square()),
    "fixed margin": lambda _, d, c, r, b: -logsigmoid(d - 0.1),
    "scores squashed first": lambda _, d, c, r, b: -logsigmoid(c.sigmoid() - r.sigmoid()),
    "softmax of a softmax": lambda _, d, c, r, b: -logsigmoid(2 * d.sigmoid() - 1),
    "strengths for log-strengths": lambda _, d, c, r, b: (
        (c.square() + r.square() + 1e-9).log() - (c.square() + 1e-9).log()
    ),
    "probit for logit": lambda _, d, c, r, b: -_probit(d),
    "negative differences only": lambda _, d, c, r, b: relu(-d),
    "scale of the row removed": lambda _, d, c, r, b: -logsigmoid(d / (c.abs() + r.abs() + 1)),
    "batch mean of the loss": lambda _, d, c, r, b: -logsigmoid(d).mean(-1, keepdim=True).expand_as(d),
    "differences whitened over the batch": lambda _, d, c, r, b: -logsigmoid(d / (d.detach().std(correction=0) + 1)),
}

_MARGIN: dict[str, Any] = {
    "margin added": lambda _, d, c, r, b: -logsigmoid(d + b.margins.detach()),
    "margin not read": lambda _, d, c, r, b: -logsigmoid(d),
    "margin as a factor": lambda _, d, c, r, b: -logsigmoid(d * (1 + b.margins.detach())),
    "margin as a weight": lambda _, d, c, r, b: -(1 + b.margins.detach()) * logsigmoid(d),
    "margin outside of the logarithm": lambda _, d, c, r, b: b.margins.detach() - logsigmoid(d),
    "margin with its gradient": lambda _, d, c, r, b: -logsigmoid(d - b.margins),
    "twice the margin": lambda _, d, c, r, b: -logsigmoid(d - 2 * b.margins.detach()),
    "half the margin": lambda _, d, c, r, b: -logsigmoid(d - 0.5 * b.margins.detach()),
    "squared margin": lambda _, d, c, r, b: -logsigmoid(d - b.margins.detach().square()),
    "margin over the batch": lambda _, d, c, r, b: -logsigmoid(d - b.margins.detach().mean(-1, keepdim=True)),
    "margin of one at least": lambda _, d, c, r, b: -logsigmoid(d - b.margins.detach().clamp(min=1)),
    "hinge at the margin": lambda _, d, c, r, b: relu(b.margins.detach() - d),
    "D14 with a margin": lambda _, d, c, r, b: -(d - b.margins.detach()).sigmoid().log(),
    "D11 swapped, with a margin": lambda _, d, c, r, b: -logsigmoid(-d - b.margins.detach()),
    "margin for a wrong order only": lambda _, d, c, r, b: -logsigmoid(d - torch.where(d < 0, b.margins.detach(), 0)),
}

_CENTRED: dict[str, Any] = {
    "squared difference": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * d.square(),
    "squares of both": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * (c.square() + r.square()),
    "square of the mean": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * ((c + r) / 2).square(),
    "size of the sum": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * (c + r).abs(),
    "sum without square": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * (c + r),
    "penalty of the other sign": lambda s, d, c, r, b: -logsigmoid(d) - s.coef * (c + r).square(),
    "fixed coefficient": lambda s, d, c, r, b: -logsigmoid(d) + 0.01 * (c + r).square(),
    "squared coefficient": lambda s, d, c, r, b: -logsigmoid(d) + s.coef**2 * (c + r).square(),
    "half the coefficient": lambda s, d, c, r, b: -logsigmoid(d) + 0.5 * s.coef * (c + r).square(),
    "penalty without gradient": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * (c + r).detach().square(),
    "better score only": lambda s, d, c, r, b: -logsigmoid(d) + s.coef * c.square(),
    "no penalty": lambda s, d, c, r, b: -logsigmoid(d) + 0 * s.coef * c,
    "penalty on the batch's mean": lambda s, d, c, r, b: (
        -logsigmoid(d) + s.coef * (c + r).mean(-1, keepdim=True).square()
    ),
    "D14 with a penalty": lambda s, d, c, r, b: -d.sigmoid().log() + s.coef * (c + r).square(),
}

_SOFT: dict[str, Any] = {
    "label of the other one": lambda _, d, c, r, b: (
        -(1 - b.preference_prob.detach()) * logsigmoid(d) - b.preference_prob.detach() * logsigmoid(-d)
    ),
    "label not read": lambda _, d, c, r, b: -logsigmoid(d),
    "label rounded": lambda _, d, c, r, b: -logsigmoid(torch.where(b.preference_prob < 0.5, -d, d)),
    "first term only": lambda _, d, c, r, b: -b.preference_prob.detach() * logsigmoid(d),
    "D05 both terms of one sign": lambda _, d, c, r, b: (
        -b.preference_prob.detach() * logsigmoid(d) - (1 - b.preference_prob.detach()) * logsigmoid(d)
    ),
    "D05b second term of the other sign": lambda _, d, c, r, b: (
        -b.preference_prob.detach() * logsigmoid(d) + (1 - b.preference_prob.detach()) * logsigmoid(-d)
    ),
    "mixture of probabilities": lambda _, d, c, r, b: (
        -torch.logaddexp(
            logsigmoid(d) + b.preference_prob.detach().clamp(min=1e-30).log(),
            logsigmoid(-d) + (1 - b.preference_prob.detach()).clamp(min=1e-30).log(),
        )
    ),
    "squared distance of probabilities": lambda _, d, c, r, b: (d.sigmoid() - b.preference_prob.detach()).square(),
    "label with its gradient": lambda _, d, c, r, b: (
        -b.preference_prob * logsigmoid(d) - (1 - b.preference_prob) * logsigmoid(-d)
    ),
    "squared label": lambda _, d, c, r, b: (
        -b.preference_prob.detach().square() * logsigmoid(d)
        - (1 - b.preference_prob.detach().square()) * logsigmoid(-d)
    ),
    "label on the difference": lambda _, d, c, r, b: -logsigmoid((2 * b.preference_prob.detach() - 1) * d),
    "label of the batch": lambda _, d, c, r, b: (
        -b.preference_prob.detach().mean(-1, keepdim=True) * logsigmoid(d)
        - (1 - b.preference_prob.detach().mean(-1, keepdim=True)) * logsigmoid(-d)
    ),
    "logarithms of sigmoids": lambda _, d, c, r, b: (
        -b.preference_prob.detach() * d.sigmoid().clamp(min=1e-12).log()
        - (1 - b.preference_prob.detach()) * (1 - d.sigmoid()).clamp(min=1e-12).log()
    ),
    "label smoothed once more": lambda _, d, c, r, b: (
        -(0.9 * b.preference_prob.detach() + 0.05) * logsigmoid(d)
        - (0.95 - 0.9 * b.preference_prob.detach()) * logsigmoid(-d)
    ),
}

_THURSTONE: dict[str, Any] = {
    "noise on one score only": lambda s, d, c, r, b: -_probit(d / s.scale),
    "scale not read": lambda s, d, c, r, b: -_probit(d / math.sqrt(2)),
    "variance for deviation": lambda s, d, c, r, b: -_probit(d / (math.sqrt(2) * s.scale**2)),
    "scale as a factor": lambda s, d, c, r, b: -_probit(d * s.scale / math.sqrt(2)),
    "root of twice the scale": lambda s, d, c, r, b: -_probit(d / math.sqrt(2 * s.scale)),
    "logit for probit": lambda s, d, c, r, b: -logsigmoid(d / (math.sqrt(2) * s.scale)),
    "logit of the slope of a probit": lambda s, d, c, r, b: -logsigmoid(1.702 * d / (math.sqrt(2) * s.scale)),
    "D14 log of a probability": lambda s, d, c, r, b: -torch.special.ndtr(d / (math.sqrt(2) * s.scale)).log(),
    "E36 each score by itself": lambda s, d, c, r, b: _probit(r / s.scale) - _probit(c / s.scale),
    "D11 swapped": lambda s, d, c, r, b: -_probit(-d / (math.sqrt(2) * s.scale)),
    "probability for its logarithm": lambda s, d, c, r, b: torch.special.ndtr(-d / (math.sqrt(2) * s.scale)),
    "error function without the half": lambda s, d, c, r, b: -_probit(d / s.scale / math.sqrt(2)) - math.log(2),
    "tail cut at 6 deviations": lambda s, d, c, r, b: -_probit((d / (math.sqrt(2) * s.scale)).clamp(-6, 6)),
    "square of the deviation": lambda s, d, c, r, b: 0.5 * relu(-d / (math.sqrt(2) * s.scale)).square(),
}

MUTANTS: list[Mutant] = [
    *variants(Pairs, "loss", _BRADLEY_TERRY, "bradley_terry"),
    *variants(Margin, "loss", _MARGIN, "bradley_terry_margin"),
    *variants(Centred, "loss", _CENTRED, "bradley_terry_centred"),
    *variants(Soft, "loss", _SOFT, "soft_bradley_terry"),
    *variants(Drawn, "loss", _THURSTONE, "thurstone"),
]
