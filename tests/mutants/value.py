"""Mutants of critic losses, and right ones in unusual form."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.components import ValueObjective
from rlhf_lab.types import Loss, ValueBatch, clean

from . import value_contract
from .mutant import Mutant, variants
from .value_controls import CONTROLS, Held, Huber, Residual

__all__ = ["CONTROLS", "MUTANTS"]


class LiveTarget(ValueObjective):
    name = "live_target"

    def __call__(self, batch: ValueBatch) -> Loss:
        return Loss(0.5 * clean(batch.values - batch.returns, batch.valid) ** 2)


class MaskedAfterwards(ValueObjective):
    name = "value_masked_afterwards"

    def __call__(self, batch: ValueBatch) -> Loss:
        return Loss(0.5 * (batch.values - batch.returns.detach()) ** 2 * batch.valid)


class MaskShifted(ValueObjective):
    name = "mask_shifted"

    def __call__(self, batch: ValueBatch) -> Loss:
        shifted = torch.cat([batch.valid[..., 1:], torch.zeros_like(batch.valid[..., :1])], dim=-1)
        return Loss(0.5 * clean(batch.values - batch.returns.detach(), shifted) ** 2)


class MaskShiftedWithin(ValueObjective):
    name = "mask_shifted_within"

    def __call__(self, batch: ValueBatch) -> Loss:
        before = torch.cat([batch.valid[..., :1], batch.valid[..., :-1]], dim=-1)
        return Loss(0.5 * clean(batch.values - batch.returns.detach(), batch.valid & before) ** 2)


class SmallErrorsUncounted(ValueObjective):
    name = "small_errors_uncounted"

    def __call__(self, batch: ValueBatch) -> Loss:
        e = clean(batch.values - batch.returns.detach(), batch.valid)
        return Loss(0.5 * e**2, weights=(e != 0).to(e))


class Rounded(ValueObjective):
    name = "rounded"

    def __call__(self, batch: ValueBatch) -> Loss:
        e = clean(batch.values - batch.returns.detach(), batch.valid)
        return Loss((0.5 * e.half() ** 2).to(e))


def _steps(batch: ValueBatch) -> Tensor:
    return batch.valid.sum(-1, keepdim=True).clamp(min=1)


def _huber(e: Tensor, delta: float) -> Tensor:
    return torch.where(e.abs() <= delta, 0.5 * e**2, delta * (e.abs() - 0.5 * delta))


_MSE = {
    "V04 [B] against [B, 1]": lambda _, e, b: (
        0.5
        * ((clean(b.values, b.valid)[..., :, None] - clean(b.returns.detach(), b.valid)[..., None, :]) ** 2).mean(-1)
    ),
    "V05 without the half": lambda _, e, b: e**2,
    "overall sign": lambda _, e, b: -0.5 * e**2,
    "value detached": lambda _, e, b: 0.5 * e.detach() ** 2 + 0 * e,
    "absolute error": lambda _, e, b: e.abs(),
    "mean error removed": lambda _, e, b: 0.5 * (e - e.mean(-1, keepdim=True)) ** 2,
    "scaled by the batch": lambda _, e, b: 0.5 * e**2 / (e.detach().std(correction=0) + 1e-8),
    "divided by the number of steps": lambda _, e, b: 0.5 * e**2 / _steps(b),
    "fourth power": lambda _, e, b: 0.25 * e**4,
    "log-cosh": lambda _, e, b: e + torch.nn.functional.softplus(-2 * e) - 0.6931471805599453,
    "clipped error": lambda _, e, b: 0.5 * e.clamp(-2, 2) ** 2,
    "Huber beyond 4": lambda _, e, b: _huber(e, 4.0),
    "log of the square": lambda _, e, b: 0.5 * (e**2).log1p(),
    "asymmetric": lambda _, e, b: torch.where(e > 0, 0.7, 0.3).to(e) * e**2,
    "value pulled to 0": lambda _, e, b: 0.5 * e**2 + 0.05 * clean(b.values, b.valid) ** 2,
    "return of the step before": lambda _, e, b: 0.5 * clean(b.values - b.returns.detach().roll(1, -1), b.valid) ** 2,
    "row mean of returns": lambda _, e, b: (
        0.5 * clean(b.values - clean(b.returns.detach(), b.valid).mean(-1, keepdim=True), b.valid) ** 2
    ),
    "sum for difference": lambda _, e, b: 0.5 * clean(b.values + b.returns.detach(), b.valid) ** 2,
    "square without the return's": lambda _, e, b: 0.5 * e**2 - 0.5 * clean(b.returns.detach(), b.valid) ** 2,
    "root": lambda _, e, b: (e**2).sqrt(),
    "dead zone": lambda _, e, b: 0.5 * torch.where(e.abs() > 0.5, e, 0 * e) ** 2,
}

_CLIPPED = {
    "V02 old values recomputed": lambda s, v, r, old, b: (
        0.5 * torch.maximum((v - r) ** 2, (s.near(v, v.detach()) - r) ** 2)
    ),
    "V03 clip around the return": lambda s, v, r, old, b: 0.5 * torch.maximum((v - r) ** 2, (s.near(v, r) - r) ** 2),
    "V08 clipped branch alone": lambda s, v, r, old, b: 0.5 * (s.near(v, old) - r) ** 2,
    "minimum for maximum": lambda s, v, r, old, b: 0.5 * torch.minimum((v - r) ** 2, (s.near(v, old) - r) ** 2),
    "clip of the value": lambda s, v, r, old, b: 0.5 * torch.maximum((v - r) ** 2, (v.clamp(-s.clip, s.clip) - r) ** 2),
    "clip in proportion": lambda s, v, r, old, b: (
        0.5 * torch.maximum((v - r) ** 2, (old + (v - old).clamp(-s.clip * old.abs(), s.clip * old.abs()) - r) ** 2)
    ),
    "V05 without the half": lambda s, v, r, old, b: torch.maximum((v - r) ** 2, (s.near(v, old) - r) ** 2),
    "absolute errors": lambda s, v, r, old, b: torch.maximum((v - r).abs(), (s.near(v, old) - r).abs()),
    "mean of both": lambda s, v, r, old, b: 0.25 * ((v - r) ** 2 + (s.near(v, old) - r) ** 2),
    "sum of both": lambda s, v, r, old, b: 0.5 * ((v - r) ** 2 + (s.near(v, old) - r) ** 2),
    "return clipped too": lambda s, v, r, old, b: 0.5 * (v - s.near(r, old)) ** 2,
    "no gradient once moved": lambda s, v, r, old, b: (
        0.5 * torch.where((v - old).abs() > s.clip, s.near(v, old).detach() + 0 * v - r, v - r) ** 2
    ),
    "half the clip": lambda s, v, r, old, b: (
        0.5 * torch.maximum((v - r) ** 2, (old + (v - old).clamp(-s.clip / 2, s.clip / 2) - r) ** 2)
    ),
    "one side": lambda s, v, r, old, b: 0.5 * torch.maximum((v - r) ** 2, (old + (v - old).clamp(max=s.clip) - r) ** 2),
    "plain mse": lambda s, v, r, old, b: 0.5 * (v - r) ** 2 + 0 * s.clip * old,
    "sign": lambda s, v, r, old, b: -0.5 * torch.maximum((v - r) ** 2, (s.near(v, old) - r) ** 2),
    "held value keeps its gradient": lambda s, v, r, old, b: (
        0.5 * torch.maximum((v - r) ** 2, (s.near(v, old).detach() + v - v.detach() - r) ** 2)
    ),
    "clip squared": lambda s, v, r, old, b: (
        0.5 * torch.maximum((v - r) ** 2, (old + (v - old).clamp(-(s.clip**2), s.clip**2) - r) ** 2)
    ),
}

_HUBER = {
    "whole delta": lambda s, e, b: torch.where(e.abs() <= s.delta, 0.5 * e**2, s.delta * (e.abs() - s.delta)),
    "no offset": lambda s, e, b: torch.where(e.abs() <= s.delta, 0.5 * e**2, s.delta * e.abs()),
    "V05 without the half": lambda s, e, b: torch.where(e.abs() <= s.delta, e**2, s.delta * (2 * e.abs() - s.delta)),
    "branches swapped": lambda s, e, b: torch.where(e.abs() > s.delta, 0.5 * e**2, s.delta * (e.abs() - 0.5 * s.delta)),
    "smooth L1": lambda s, e, b: torch.nn.functional.smooth_l1_loss(
        e, torch.zeros_like(e), reduction="none", beta=s.delta
    ),
    "pseudo-Huber": lambda s, e, b: s.delta**2 * ((1 + (e / s.delta) ** 2).sqrt() - 1),
    "delta ignored": lambda s, e, b: _huber(e, 1.0),
    "twice delta": lambda s, e, b: _huber(e, 2 * s.delta),
    "slope 1 beyond": lambda s, e, b: torch.where(e.abs() <= s.delta, 0.5 * e**2, e.abs() - s.delta + 0.5 * s.delta**2),
    "sign": lambda s, e, b: -_huber(e, s.delta),
    "flat beyond": lambda s, e, b: 0.5 * e.clamp(-s.delta, s.delta) ** 2,
    "below only": lambda s, e, b: torch.where(e >= -s.delta, 0.5 * e**2, s.delta * (e.abs() - 0.5 * s.delta)),
    "absolute error": lambda s, e, b: s.delta * e.abs(),
    "scaled by delta": lambda s, e, b: s.delta * _huber(e, s.delta),
    "row's largest error decides": lambda s, e, b: torch.where(
        e.abs().amax(-1, keepdim=True) <= s.delta, 0.5 * e**2, s.delta * (e.abs() - 0.5 * s.delta)
    ),
}


MUTANTS: list[Mutant] = [
    *variants(Residual, "loss", _MSE, "mse"),
    Mutant("target not detached", LiveTarget, "mse"),
    Mutant("N15 NaN times 0", MaskedAfterwards, "mse"),
    Mutant("V06 mask shifted against values", MaskShifted, "mse"),
    Mutant("V06 mask shifted the other way", MaskShiftedWithin, "mse"),
    Mutant("small errors not counted", SmallErrorsUncounted, "mse"),
    Mutant("computed in half precision", Rounded, "mse"),
    *variants(Held, "loss", _CLIPPED, "clipped"),
    *variants(Huber, "loss", _HUBER, "huber"),
    *value_contract.MUTANTS,
]
