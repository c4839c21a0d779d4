"""Mutants of losses that say where each of a pair's responses should go.

In their formulas a and b are log(π/π_ref) of the chosen and of the rejected response.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from .mutant import Mutant, variants
from .preference_bases import Classified, Diverging, Imitating, Plain, Positive, Regularised, Soft

__all__ = ["MUTANTS"]

_DPOP: dict[str, Any] = {
    "penalty outside": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) + s.beta * s.lam * relu(-a),
    "penalty on the rejected one": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(-b))),
    "penalty where it rose": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(a))),
    "sign of the penalty": lambda s, a, b, x: -logsigmoid(s.beta * (a - b + s.lam * relu(-a))),
    "penalty without beta": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) - s.lam * relu(-a)),
    "penalty detached": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(-a).detach())),
    "squared penalty": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(-a).square())),
    "both sides": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * a.abs())),
    "penalty on log-probabilities": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(-x.w))),
    "weight of 50": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - 50 * relu(-a))) + 0 * s.lam,
    "penalty on the margin": lambda s, a, b, x: -logsigmoid(s.beta * (a - b - s.lam * relu(b - a))),
    "D14 -log(sigmoid(x))": lambda s, a, b, x: -(s.beta * (a - b - s.lam * relu(-a))).sigmoid().log(),
}

_SPPO: dict[str, Any] = {
    "same target for both": lambda s, a, b, x: _squares(a - s.half(x), b - s.half(x)),
    "signs of the targets": lambda s, a, b, x: _squares(a + s.half(x), b - s.half(x)),
    "targets one over beta": lambda s, a, b, x: _squares(a - 2 * s.half(x), b + 2 * s.half(x)),
    "margin of ipo": lambda s, a, b, x: (a - b - s.half(x)).square(),
    "half": lambda s, a, b, x: 0.5 * _squares(a - s.half(x), b + s.half(x)),
    "in units of beta": lambda s, a, b, x: _squares(s.beta * (a - s.half(x)), s.beta * (b + s.half(x))),
    "chosen one only": lambda s, a, b, x: (a - s.half(x)).square() + 0 * b,
    "D12 reference dropped": lambda s, a, b, x: _squares(x.w - s.half(x), x.r + s.half(x)),
    "mean of both": lambda s, a, b, x: ((a - s.half(x)) + (b + s.half(x))).square() / 2,
    "targets of the probability": lambda s, a, b, x: _squares(a - s.chance(x) / s.beta, b + s.chance(x) / s.beta),
    "probability not read": lambda s, a, b, x: _squares(a - 0.5 / s.beta, b + 0.5 / s.beta),
    "probability for the chosen only": lambda s, a, b, x: _squares(a - s.half(x), b + 0.5 / s.beta),
}


def _squares(first: Tensor, second: Tensor) -> Tensor:
    return first.square() + second.square()


class Target(Soft):
    """A loss with the targets ±(p − ½)/β."""

    def half(self, x: Any) -> Any:
        return (self.chance(x) - 0.5) / self.beta


_NCA: dict[str, Any] = {
    "halves forgotten": lambda s, p, q: -logsigmoid(p) - logsigmoid(-p) - logsigmoid(-q),
    "noise of the chosen forgotten": lambda s, p, q: -logsigmoid(p) - 0.5 * logsigmoid(-q),
    "noise of the rejected forgotten": lambda s, p, q: -logsigmoid(p) - 0.5 * logsigmoid(-p) + 0 * q,
    "signs of the noise": lambda s, p, q: -logsigmoid(p) - 0.5 * logsigmoid(p) - 0.5 * logsigmoid(q),
    "data term halved": lambda s, p, q: -0.5 * (logsigmoid(p) + logsigmoid(-p) + logsigmoid(-q)),
    "margin in place of the chosen one": lambda s, p, q: (
        -logsigmoid(p - q) - 0.5 * logsigmoid(-p) - 0.5 * logsigmoid(-q)
    ),
    "D14 -log(sigmoid(x))": lambda s, p, q: -p.sigmoid().log() - 0.5 * (-p).sigmoid().log() - 0.5 * logsigmoid(-q),
    "rejected detached": lambda s, p, q: -logsigmoid(p) - 0.5 * logsigmoid(-p) - 0.5 * logsigmoid(-q.detach()),
    "classifier of bco": lambda s, p, q: -logsigmoid(p) - logsigmoid(-q),
}

_BCO: dict[str, Any] = {
    "shift of one only": lambda s, p, q: -logsigmoid(p - s.shift) - logsigmoid(-q),
    "sign of one shift": lambda s, p, q: -logsigmoid(p - s.shift) - logsigmoid(-q - s.shift),
    "signs of both shifts": lambda s, p, q: -logsigmoid(p + s.shift) - logsigmoid(-(q + s.shift)),
    "mean of both": lambda s, p, q: -0.5 * logsigmoid(p - s.shift) - 0.5 * logsigmoid(s.shift - q),
    "shift times beta": lambda s, p, q: -logsigmoid(p - s.beta * s.shift) - logsigmoid(s.beta * s.shift - q),
    "shift not read": lambda s, p, q: -logsigmoid(p) - logsigmoid(-q),
    "D14 log(1 + exp(x))": lambda s, p, q: -logsigmoid(p - s.shift) + (1 + (q - s.shift).exp()).log(),
    "D10 margin of dpo": lambda s, p, q: -logsigmoid(p - q - s.shift),
}

_APO_ZERO: dict[str, Any] = {
    "chosen down": lambda s, p, q: p.sigmoid() + q.sigmoid(),
    "rejected up": lambda s, p, q: (-p).sigmoid() + (-q).sigmoid(),
    "D11 swapped": lambda s, p, q: (-q).sigmoid() + p.sigmoid(),
    "constant forgotten": lambda s, p, q: q.sigmoid() - p.sigmoid(),
    "logarithms": lambda s, p, q: -logsigmoid(p) - logsigmoid(-q),
    "D10 margin in one place": lambda s, p, q: (-p).sigmoid() + (q - p).sigmoid(),
    "product": lambda s, p, q: 1 - p.sigmoid() * (-q).sigmoid(),
    "half": lambda s, p, q: 0.5 * (-p).sigmoid() + 0.5 * q.sigmoid(),
    "chosen detached": lambda s, p, q: (-p.detach()).sigmoid() + q.sigmoid(),
    "overall sign": lambda s, p, q: -(-p).sigmoid() - q.sigmoid(),
    "twice beta": lambda s, p, q: (-2 * p).sigmoid() + (2 * q).sigmoid(),
}

_APO_DOWN: dict[str, Any] = {
    "chosen up": lambda s, p, q: (-p).sigmoid() + (q - p).sigmoid(),
    "rejected alone": lambda s, p, q: p.sigmoid() + q.sigmoid(),
    "D10 rejected's own ratio": lambda s, p, q: p.sigmoid() + (-q).sigmoid(),
    "margin the other way": lambda s, p, q: p.sigmoid() + (p - q).sigmoid(),
    "constant forgotten": lambda s, p, q: p.sigmoid() - (p - q).sigmoid(),
    "chosen detached in the margin": lambda s, p, q: p.sigmoid() + (q - p.detach()).sigmoid(),
    "logarithm of the margin": lambda s, p, q: p.sigmoid() - logsigmoid(p - q),
    "half": lambda s, p, q: 0.5 * p.sigmoid() + 0.5 * (q - p).sigmoid(),
    "chosen drawn to the reference": lambda s, p, q: 0.25 - p.sigmoid() * (-p).sigmoid() + q.sigmoid(),
}


class _Rewards:
    """A loss of the implicit rewards p = β a and q = β b."""

    def loss(self, a: Tensor, b: Tensor, x: Any) -> Tensor:
        found: Tensor = self.form(self.beta * a, self.beta * b)  # type: ignore[attr-defined]
        return found


class _Plain(_Rewards, Plain):
    name = "rewards_base"


class _Classified(_Rewards, Classified):
    name = "classified_base"


_DIVERGENCES: dict[str, dict[str, Any]] = {
    "js": {
        "js without its mean": lambda s, a: -logsigmoid(-a),
        "js of the other ratio": lambda s, a: -logsigmoid(-a) + logsigmoid(a),
        "js halved": lambda s, a: 0.5 * logsigmoid(a),
        "js of a mixture of ratios": lambda s, a: logsigmoid(2 * a),
        "D14 js by log(2u/(1+u))": lambda s, a: (2 * a.exp() / (1 + a.exp())).log(),
    },
    "by_order": {
        "order of the library: 1 - alpha": lambda s, a, order: (
            -torch.expm1((-(1 - order) * a).clamp(max=60)) / (1 - order + 1e-9)
        ),
        "not divided by alpha": lambda s, a, order: -torch.expm1((-order * a).clamp(max=60)),
        "sign of the exponent": lambda s, a, order: torch.expm1((order * a).clamp(max=60)) / order,
        "sign of the slope": lambda s, a, order: torch.expm1((-order * a).clamp(max=60)) / order,
        "held at a ratio of e^-10": lambda s, a, order: -torch.expm1((-order * a).clamp(max=10)) / order,
        "not held": lambda s, a, order: -torch.expm1(-order * a) / order,
        "alpha not read": lambda s, a, order: -torch.expm1((-a).clamp(max=60)),
        "ratio for its power": lambda s, a, order: order * a,
    },
    "reverse": {
        "D12 reverse of the ratio": lambda s, a: a.clamp(max=60).exp(),
        "reverse with a half": lambda s, a: 0.5 * a,
        "D11 reverse the other way": lambda s, a: -a,
        "u log u for its slope": lambda s, a: a * a.clamp(max=60).exp(),
    },
}

_SLOPES: dict[str, Any] = {
    "forward of order 2": lambda s, a: Diverging.slope(s, a) if s.divergence != "forward" else s.by_order(a, 2.0),
    "forward by its square": lambda s, a: Diverging.slope(s, a) if s.divergence != "forward" else a - 0.5 * a.square(),
    "js taken for forward": lambda s, a: s.js(a) if s.divergence == "forward" else Diverging.slope(s, a),
}

_F_DPO: dict[str, Any] = {
    "D10 raw margin beside transformed ones": lambda s, a, b, x: -logsigmoid(s.beta * (s.slope(a) - b)),
    "D10 divergence not read": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)),
    "D11 swapped": lambda s, a, b, x: -logsigmoid(s.beta * (s.slope(b) - s.slope(a))),
    "slope of the margin": lambda s, a, b, x: -logsigmoid(s.beta * s.slope(a - b)),
    "overall sign": lambda s, a, b, x: logsigmoid(s.beta * (s.slope(a) - s.slope(b))),
    "slopes detached": lambda s, a, b, x: -logsigmoid(s.beta * (s.slope(a) - s.slope(b)).detach()) + 0 * a,
}

_ITERATIVE: dict[str, Any] = {
    "imitation not divided": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * x.w,
    "imitation of both": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * (x.w / x.n + x.r / x.m),
    "sign of the imitation": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) + s.alpha * x.w / x.n,
    "weight on the preference": lambda s, a, b, x: -s.alpha * logsigmoid(s.beta * (a - b)) - x.w / x.n,
    "log-ratio imitated": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * a / x.n,
    "rejected imitated": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * x.r / x.m,
    "divided by both lengths": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * x.w / (x.n + x.m),
    "probability imitated": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * (x.w / x.n).exp(),
    "imitation detached": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.alpha * x.w.detach() / x.n,
    "mean log-ratios too": lambda s, a, b, x: -logsigmoid(s.beta * (a / x.n - b / x.m)) - s.alpha * x.w / x.n,
}

_WITH_SFT: dict[str, Any] = {
    "without beta": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.eta * x.w,
    "sign of the imitation": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) + s.eta * s.beta * x.w,
    "rejected imitated": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.eta * s.beta * x.r,
    "log-ratio imitated": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.eta * s.beta * a,
    "inside of the sigmoid": lambda s, a, b, x: -logsigmoid(s.beta * (a - b) + s.eta * s.beta * x.w),
    "imitation detached": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - s.eta * s.beta * x.w.detach(),
    "weight not read": lambda s, a, b, x: -logsigmoid(s.beta * (a - b)) - 0.005 * s.beta * x.w,
}

MUTANTS: list[Mutant] = [
    *variants(Positive, "loss", _DPOP, "dpop"),
    *variants(Target, "loss", _SPPO, "sppo"),
    *variants(_Plain, "form", _NCA, "nca"),
    *variants(_Classified, "form", _BCO, "bco"),
    *variants(_Plain, "form", _APO_ZERO, "apo_zero"),
    *variants(_Plain, "form", _APO_DOWN, "apo_down"),
    *(mutant for part, table in _DIVERGENCES.items() for mutant in variants(Diverging, part, table, "f_dpo")),
    *variants(Diverging, "slope", _SLOPES, "f_dpo"),
    *variants(Diverging, "loss", _F_DPO, "f_dpo"),
    *variants(Imitating, "loss", _ITERATIVE, "rpo_iterative"),
    *variants(Regularised, "loss", _WITH_SFT, "rpo_sft"),
]
