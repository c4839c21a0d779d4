"""Mutants of losses on the margin of a pair: dpo and its smoothed, robust, quadratic and hinged relatives.

In their formulas a and b are log(π/π_ref) of the chosen and of the rejected response.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from .mutant import Mutant, variants
from .preference_bases import Discovered, Given, Lasting, Pairs, Plain, Priced, Rewarded, Smoothed, Soft, Sure, Targeted

__all__ = ["MUTANTS"]

_DPO: dict[str, Any] = {
    "D11 chosen and rejected swapped": lambda s, a, b, x: -logsigmoid(s.beta * (b - a)),
    "D12 reference dropped": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)),
    "D12 reference of the rejected dropped": lambda s, a, b, x: -logsigmoid(s.beta * (a - x.r)),
    "D12 reference added": lambda s, a, b, x: -logsigmoid(s.beta * (x.w + x.w0 - x.r - x.r0)),
    "D12 reference's responses swapped": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r0 - x.r + x.w0)),
    "D14 -log(sigmoid(x))": lambda s, a, b, x: -(s.beta * (a - b)).sigmoid().log(),
    "D14 log(1 + exp(-x))": lambda s, a, b, x: (1 + (-s.beta * (a - b)).exp()).log(),
    "overall sign": lambda s, a, b, x: logsigmoid(s.beta * (a - b)),
    "beta outside": lambda s, a, b, x: -s.beta * logsigmoid(a - b),
    "beta forgotten": lambda s, a, b, x: -logsigmoid(a - b),
    "beta squared": lambda s, a, b, x: -logsigmoid(s.beta**2 * (a - b)),
    "one over beta": lambda s, a, b, x: -logsigmoid((a - b) / s.beta),
    "half of beta": lambda s, a, b, x: -logsigmoid(0.5 * s.beta * (a - b)),
    "reference without beta": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r) - (x.w0 - x.r0)),
    "margin held within 5": lambda s, a, b, x: -logsigmoid((s.beta * (a - b)).clamp(-5, 5)),
    "log-ratios held within 10": lambda s, a, b, x: -logsigmoid(s.beta * (a.clamp(-10, 10) - b.clamp(-10, 10))),
    "rejected detached": lambda s, a, b, x: -logsigmoid(s.beta * (a - b.detach())),
    "chosen detached": lambda s, a, b, x: -logsigmoid(s.beta * (a.detach() - b)),
    "no gradient": lambda s, a, b, x: -logsigmoid(s.beta * (a - b).detach()) + 0 * a,
    "ratios for log-ratios": lambda s, a, b, x: -logsigmoid(s.beta * (a.clamp(max=80).exp() - b.clamp(max=80).exp())),
    "ratio of ratios": lambda s, a, b, x: -logsigmoid(s.beta * torch.where(b == 0, a, a / b.masked_fill(b == 0, 1))),
    "probability for its logarithm": lambda s, a, b, x: (-s.beta * (a - b)).sigmoid(),
    "hinge": lambda s, a, b, x: relu(1 - s.beta * (a - b)),
    "square": lambda s, a, b, x: (a - b - 0.5 / s.beta).square(),
    "exponential": lambda s, a, b, x: (-s.beta * (a - b)).clamp(-80, 80).exp(),
    "smoothed label": lambda s, a, b, x: -0.9 * logsigmoid(s.beta * (a - b)) - 0.1 * logsigmoid(-s.beta * (a - b)),
    "size of the margin": lambda s, a, b, x: -logsigmoid(s.beta * (a - b).abs()),
    "logarithm of base 2": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) / math.log(2),
    "half": lambda s, a, b, x: -0.5 * logsigmoid(s.beta * (a - b)),
    "focal weight": lambda s, a, b, x: -2 * (-s.beta * (a - b)).sigmoid().detach() * logsigmoid(s.beta * (a - b)),
    "each log-ratio alone": lambda s, a, b, x: -logsigmoid(s.beta * a) - logsigmoid(-s.beta * b),
    "log sigmoid of each log-ratio": lambda s, a, b, x: logsigmoid(s.beta * b) - logsigmoid(s.beta * a),
    "only the chosen one": lambda s, a, b, x: -logsigmoid(s.beta * a) + 0 * b,
    "margin of the batch removed": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - (a - b).mean(-1, keepdim=True))),
    "mean over the batch": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)).mean(-1, keepdim=True).expand_as(a),
    "small probability added": lambda s, a, b, x: -((s.beta * (a - b)).sigmoid() + 1e-6).log(),
    "fixed margin": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) - 0.1),
    "chosen may only rise": lambda s, a, b, x: -logsigmoid(s.beta * (a.clamp(min=0) - b)),
    "likelihood added": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - 0.01 * x.w,
    "value of dpo, slope of a hinge": lambda s, a, b, x: (
        (-logsigmoid(s.beta * (a - b)) + s.beta * (a - b)).detach() - s.beta * (a - b)
    ),
    "right sign, slope reversed": lambda s, a, b, x: (
        logsigmoid(s.beta * (a - b)) - 2 * logsigmoid(s.beta * (a - b)).detach()
    ),
    "pair weighed by its own surprise": lambda s, a, b, x: logsigmoid(s.beta * (a - b)).square(),
    "reference with its gradient": lambda s, a, b, x: (
        -logsigmoid(s.beta * (a - b) - s.beta * _zero(x.batch.ref_log_probs))
    ),
}


def _zero(x: Tensor) -> Tensor:
    """Return 0 with a gradient into a tensor ``[*b,2]``."""
    kept = torch.where(x.isfinite(), x, 0)
    return kept[..., 0] - kept[..., 0].detach()


_CDPO: dict[str, Any] = {
    "D05 the same sign twice": lambda s, z, e: -(1 - e) * logsigmoid(z) - e * logsigmoid(z),
    "D05 the other sign": lambda s, z, e: -(1 - e) * logsigmoid(z) + e * logsigmoid(-z),
    "rates swapped": lambda s, z, e: -e * logsigmoid(z) - (1 - e) * logsigmoid(-z),
    "half the rate": lambda s, z, e: -(1 - e / 2) * logsigmoid(z) - e / 2 * logsigmoid(-z),
    "rate not taken off": lambda s, z, e: -logsigmoid(z) - e * logsigmoid(-z),
    "margin smoothed": lambda s, z, e: -logsigmoid((1 - 2 * e) * z),
    "divided as the robust form": lambda s, z, e: (-(1 - e) * logsigmoid(z) - e * logsigmoid(-z)) / (1 - 2 * e),
    "D14 in the second term": lambda s, z, e: -(1 - e) * logsigmoid(z) - e * (-z).sigmoid().log(),
    "D11 swapped": lambda s, z, e: -(1 - e) * logsigmoid(-z) - e * logsigmoid(z),
    "overall sign": lambda s, z, e: (1 - e) * logsigmoid(z) + e * logsigmoid(-z),
    "rate not read": lambda s, z, e: -logsigmoid(z),
    "rate of a tenth": lambda s, z, e: -0.9 * logsigmoid(z) - 0.1 * logsigmoid(-z),
    "probability smoothed": lambda s, z, e: -((1 - 2 * e) * z.sigmoid() + e + 1e-9).log(),
    "wrong term detached": lambda s, z, e: -(1 - e) * logsigmoid(z) - e * logsigmoid(-z).detach(),
    "rate on the square": lambda s, z, e: -(1 - e**2) * logsigmoid(z) - e**2 * logsigmoid(-z),
    "margin's share twice": lambda s, z, e: -logsigmoid(z) + 2 * e * z,
}

_ROBUST: dict[str, Any] = {
    "D05b sign": lambda s, z, e: (-(1 - e) * logsigmoid(z) - e * logsigmoid(-z)) / (1 - 2 * e),
    "D05c not divided": lambda s, z, e: -(1 - e) * logsigmoid(z) + e * logsigmoid(-z),
    "D05c divided by 1 - e": lambda s, z, e: (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - e),
    "multiplied": lambda s, z, e: (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) * (1 - 2 * e),
    "divided twice": lambda s, z, e: (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e) ** 2,
    "same sign twice": lambda s, z, e: (-(1 - e) * logsigmoid(z) + e * logsigmoid(z)) / (1 - 2 * e),
    "held above 0": lambda s, z, e: relu(-(1 - e) * logsigmoid(z) + e * logsigmoid(-z)) / (1 - 2 * e),
    "rates swapped": lambda s, z, e: (-e * logsigmoid(z) + (1 - e) * logsigmoid(-z)) / (1 - 2 * e),
    "correction detached": lambda s, z, e: (-(1 - e) * logsigmoid(z) + e * logsigmoid(-z).detach()) / (1 - 2 * e),
    "correction of the margin": lambda s, z, e: -logsigmoid(z / (1 - 2 * e)),
}

_EXO: dict[str, Any] = {
    "forward divergence": lambda s, z, e: -(1 - e) * logsigmoid(z) - e * logsigmoid(-z),
    "rates swapped": lambda s, z, e: (
        z.sigmoid() * (logsigmoid(z) - math.log(e)) + (-z).sigmoid() * (logsigmoid(-z) - math.log(1 - e))
    ),
    "first term only": lambda s, z, e: z.sigmoid() * (logsigmoid(z) - math.log(1 - e)),
    "entropy forgotten": lambda s, z, e: -z.sigmoid() * math.log(1 - e) - (-z).sigmoid() * math.log(e),
    "label forgotten": lambda s, z, e: z.sigmoid() * logsigmoid(z) + (-z).sigmoid() * logsigmoid(-z),
    "weights detached": lambda s, z, e: (
        z.sigmoid().detach() * (logsigmoid(z) - math.log(1 - e))
        + (-z).sigmoid().detach() * (logsigmoid(-z) - math.log(e))
    ),
    "D14 logarithms of probabilities": lambda s, z, e: (
        z.sigmoid() * (z.sigmoid().log() - math.log(1 - e)) + (-z).sigmoid() * ((-z).sigmoid().log() - math.log(e))
    ),
    "half of the divergence": lambda s, z, e: (
        0.5 * z.sigmoid() * (logsigmoid(z) - math.log(1 - e)) + 0.5 * (-z).sigmoid() * (logsigmoid(-z) - math.log(e))
    ),
}

_IPO: dict[str, Any] = {
    "target one over beta": lambda s, a, b, x: (a - b - (s.chance(x) - 0.5) * 2 / s.beta).square(),
    "target of a half": lambda s, a, b, x: (a - b - (s.chance(x) - 0.5) + 0 * s.beta).square(),
    "target times beta": lambda s, a, b, x: (a - b - (s.chance(x) - 0.5) * s.beta).square(),
    "sign of the target": lambda s, a, b, x: (a - b + (s.chance(x) - 0.5) / s.beta).square(),
    "half": lambda s, a, b, x: 0.5 * (a - b - (s.chance(x) - 0.5) / s.beta).square(),
    "in units of beta": lambda s, a, b, x: (s.beta * (a - b) - (s.chance(x) - 0.5)).square(),
    "absolute distance": lambda s, a, b, x: (a - b - (s.chance(x) - 0.5) / s.beta).abs(),
    "below the target only": lambda s, a, b, x: relu((s.chance(x) - 0.5) / s.beta - a + b).square(),
    "D11 swapped": lambda s, a, b, x: (b - a - (s.chance(x) - 0.5) / s.beta).square(),
    "D12 reference dropped": lambda s, a, b, x: (x.w - x.r - (s.chance(x) - 0.5) / s.beta).square(),
    "overall sign": lambda s, a, b, x: -(a - b - (s.chance(x) - 0.5) / s.beta).square(),
    "rejected detached": lambda s, a, b, x: (a - b.detach() - (s.chance(x) - 0.5) / s.beta).square(),
    "probability for its distance from a half": lambda s, a, b, x: (a - b - s.chance(x) / (2 * s.beta)).square(),
    "probability of the other": lambda s, a, b, x: (
        a - b - ((1 - s.chance(x) if s.soft_labels else 1.0) - 0.5) / s.beta
    ).square(),
    "probability not read": lambda s, a, b, x: (a - b - 0.5 / s.beta).square(),
    "probability with its gradient": lambda s, a, b, x: (
        a - b - ((x.batch.preference_prob if s.soft_labels else 1.0) - 0.5) / s.beta
    ).square(),
    "each response": lambda s, a, b, x: (
        (a - (s.chance(x) - 0.5) / s.beta).square() + (b + (s.chance(x) - 0.5) / s.beta).square()
    ),
}

_IPO_BY_LENGTH: dict[str, Any] = {
    "D02 means over tokens": lambda s, a, b, x: (a / x.n - b / x.m - (s.chance(x) - 0.5) / s.beta).square(),
    "D02 margin over all tokens": lambda s, a, b, x: ((a - b) / (x.n + x.m) - (s.chance(x) - 0.5) / s.beta).square(),
}

_HINGE: dict[str, Any] = {
    "margin of beta": lambda s, a, b, x: relu(s.beta - (a - b)),
    "margin in log-ratios": lambda s, a, b, x: relu(1 - (a - b)) + 0 * s.beta * a,
    "no margin": lambda s, a, b, x: relu(-s.beta * (a - b)),
    "square": lambda s, a, b, x: relu(1 - s.beta * (a - b)).square(),
    "no hinge": lambda s, a, b, x: 1 - s.beta * (a - b),
    "smooth hinge": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) - 1),
    "margin of 2": lambda s, a, b, x: relu(2 - s.beta * (a - b)),
    "D12 reference dropped": lambda s, a, b, x: relu(1 - s.beta * (x.w - x.r)),
    "leaks beyond the margin": lambda s, a, b, x: torch.nn.functional.leaky_relu(1 - s.beta * (a - b), 0.01),
    "hinge on each response": lambda s, a, b, x: relu(0.5 - s.beta * a) + relu(0.5 + s.beta * b),
}

_REWARD: dict[str, Any] = {
    "order of the coins": lambda s, z, t: t.sigmoid() * 0 + _coins(z, t),
    "cross-entropy without the target's entropy": lambda s, z, t: (
        -t.sigmoid() * logsigmoid(z) - (-t).sigmoid() * logsigmoid(-z)
    ),
    "square": lambda s, z, t: (z - t).square(),
    "one side": lambda s, z, t: t.sigmoid() * (logsigmoid(t) - logsigmoid(z)),
    "margin taken off": lambda s, z, t: -logsigmoid(z - t),
    "margin not read": lambda s, z, t: _coins(torch.ones_like(t), z),
    "sign of the margin": lambda s, z, t: _coins(-t, z),
    "twice the margin": lambda s, z, t: _coins(2 * t, z),
}


def _coins(t: Tensor, z: Tensor) -> Tensor:
    """Return the divergence of a coin with log-odds z from one with log-odds t."""
    return t.sigmoid() * (logsigmoid(t) - logsigmoid(z)) + (-t).sigmoid() * (logsigmoid(-t) - logsigmoid(-z))


_DISCOPOP: dict[str, Any] = {
    "gate swapped": lambda s, z: _gated(-z / s.tau, z),
    "gate of the margin": lambda s, z: _gated(z, z) + 0 * s.tau,
    "gate times tau": lambda s, z: _gated(z * s.tau, z),
    "gate detached": lambda s, z: _gated((z / s.tau).detach(), z),
    "logistic alone": lambda s, z: -logsigmoid(z) + 0 * s.tau,
    "no gate": lambda s, z: 0.5 * (-logsigmoid(z)) + 0.5 * (-z.clamp(min=-80)).exp() + 0 * s.tau,
}


def _gated(gate: Tensor, z: Tensor) -> Tensor:
    steep = (logsigmoid(gate) - z).clamp(max=80).exp()
    return (-gate).sigmoid() * -logsigmoid(z) + steep


class _OfMargin(Pairs):
    """A loss of z = β (a − b)."""

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        z = self.beta * (a - b)  # type: ignore[attr-defined]
        if isinstance(self, Rewarded):
            return self.form(z, self.eta * x.batch.margins.detach())  # type: ignore[attr-defined, no-any-return]
        rates = (self.label_smoothing,) if isinstance(self, Smoothed | Sure) else ()
        return self.form(z, *rates)  # type: ignore[attr-defined, no-any-return]


class _Smoothed(_OfMargin, Smoothed):
    name = "smoothed_base"


class _Sure(_OfMargin, Sure):
    name = "sure_base"


class _Rewarded(_OfMargin, Rewarded):
    name = "rewarded_base"


class _Discovered(_OfMargin, Discovered):
    name = "discovered_base"


_NORM: dict[str, Any] = {
    "sums for means": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)),
    "difference over all tokens": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) / (x.n + x.m)),
    "both by the chosen one's length": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) / x.n),
    "lengths swapped": lambda s, a, b, x: -logsigmoid(s.beta * (a / x.m - b / x.n)),
    "length of the batch": lambda s, a, b, x: (
        -logsigmoid(s.beta * (a / x.n.amax(-1, keepdim=True) - b / x.m.amax(-1, keepdim=True)))
    ),
    "divided twice": lambda s, a, b, x: -logsigmoid(s.beta * (a / x.n**2 - b / x.m**2)),
    "root of the length": lambda s, a, b, x: -logsigmoid(s.beta * (a / x.n.sqrt() - b / x.m.sqrt())),
    "one token too many": lambda s, a, b, x: -logsigmoid(s.beta * (a / (x.n + 1) - b / (x.m + 1))),
    "reference not divided": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r / x.m - x.w0 + x.r0)),
    "D12 reference dropped": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r / x.m)),
    "loss divided by length": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) / x.n,
}

_PRICED: dict[str, Any] = {
    "sign of the price": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) - s.alpha * (x.n - x.m)),
    "price of the chosen one": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) + s.alpha * x.n),
    "size of the difference": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) + s.alpha * (x.n - x.m).abs()),
    "price in log-ratios": lambda s, a, b, x: -logsigmoid(s.beta * (a - b + s.alpha * (x.n - x.m))),
    "price outside": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * (x.n - x.m),
    "ratio of lengths": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) + s.alpha * (x.n / x.m - 1)),
    "means as well": lambda s, a, b, x: -logsigmoid(s.beta * (a / x.n - b / x.m) + s.alpha * (x.n - x.m)),
}


MUTANTS: list[Mutant] = [
    *variants(Plain, "loss", _DPO, "dpo"),
    *variants(_Smoothed, "form", _CDPO, "cdpo"),
    *variants(_Smoothed, "form", _ROBUST, "robust_dpo"),
    *variants(_Sure, "form", _EXO, "exo"),
    *variants(Soft, "loss", _IPO, "ipo"),
    *variants(Targeted, "loss", _IPO_BY_LENGTH, "ipo"),
    *variants(Plain, "loss", _HINGE, "hinge"),
    *variants(_Rewarded, "form", _REWARD, "rpo_reward_aware"),
    *variants(_Discovered, "form", _DISCOPOP, "discopop"),
    *variants(Lasting, "loss", _NORM, "dpo_norm"),
    *variants(Priced, "loss", _PRICED, "r_dpo"),
]
