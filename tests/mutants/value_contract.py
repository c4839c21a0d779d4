"""Mutants of critic losses whose formula is right, but not what is around it."""

from __future__ import annotations

import torch

from rlhf_lab.components import ValueObjective
from rlhf_lab.types import Loss, ValueBatch, clean

from .mutant import Mutant
from .two_forms import TwoForms
from .value_controls import Residual

__all__ = ["MUTANTS"]

_SEEN: list[float] = []


class Remembers(Residual):
    name = "value_remembers"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        _SEEN.append(float(e.detach().sum()))
        return 0.5 * (e - 1e-3 * len(_SEEN)) ** 2


class InPlace(ValueObjective):
    name = "value_in_place"

    def __call__(self, batch: ValueBatch) -> Loss:
        with torch.no_grad():
            batch.returns.masked_fill_(~batch.valid, 0.0).mul_(0.5)
        return Loss(0.5 * clean(batch.values - 2 * batch.returns.detach(), batch.valid) ** 2)


class PaddingShared(ValueObjective):
    """The last step learns from the padding behind it."""

    name = "value_padding_shared"
    scope = "episode"

    def __call__(self, batch: ValueBatch) -> Loss:
        v = torch.where(batch.values.isfinite(), batch.values, 0)
        behind = torch.cat([v[..., 1:], torch.zeros_like(v[..., :1])], dim=-1)
        after = torch.cat([batch.valid[..., 1:], torch.ones_like(batch.valid[..., :1])], dim=-1)
        smooth = 0.1 * (behind - v).masked_fill(after, 0)
        return Loss(0.5 * clean(v + smooth - batch.returns.detach(), batch.valid) ** 2)


class ByRow(Residual):
    name = "value_by_row"
    scope = "batch"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        return 0.5 * e**2 * torch.arange(1, len(e) + 1).to(e)[:, None]


class TwoAxes(Residual):
    name = "value_two_axes"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        return 0.5 * e**2 / (e.ndim - 1)


class Cancels(Residual):
    name = "value_cancels"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        return 0.5 * ((e + 2.0**26) - 2.0**26) ** 2


class Rounded(Residual):
    name = "value_rounded"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        return 0.5 * e.float().to(e.dtype) ** 2


class SecondForm(TwoForms, Residual):
    name = "value_second_form"

    def loss(self, e: torch.Tensor, batch: ValueBatch) -> torch.Tensor:
        return (1.0 if self.second else 0.5) * e**2


MUTANTS: list[Mutant] = [
    Mutant("state between calls", Remembers, "mse"),
    Mutant("changes its input", InPlace, "mse"),
    Mutant("padding behind the last step", PaddingShared, "mse"),
    Mutant("rows weighed by their place", ByRow, "mse"),
    Mutant("runs not expected", TwoAxes, "mse"),
    Mutant("cancellation in float32", Cancels, "mse"),
    Mutant("float32 inside", Rounded, "mse"),
    Mutant("another form for another device", SecondForm, "mse"),
]
