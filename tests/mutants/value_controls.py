"""What mutants of critic losses are built from, and right losses that may not be called wrong."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component, ValueObjective
from rlhf_lab.types import Loss, ValueBatch, clean

from .mutant import REGISTRY

__all__ = ["CONTROLS", "Held", "Huber", "Residual"]


class Residual(ValueObjective):
    """A loss of the error V − R."""

    def __call__(self, batch: ValueBatch) -> Loss:
        return Loss(self.loss(clean(batch.values - batch.returns.detach(), batch.valid), batch))

    @abstractmethod
    def loss(self, e: Tensor, batch: ValueBatch) -> Tensor: ...


class Huber(Residual):
    """A loss of the error with Huber's parameter."""

    delta: float = Field(default=1.0, gt=0, allow_inf_nan=True)


class Held(ValueObjective):
    """A loss of values, returns and old values."""

    requires = frozenset({"old_values"})
    clip: float = Field(default=0.2, ge=0, allow_inf_nan=True)

    def __call__(self, batch: ValueBatch) -> Loss:
        assert batch.old_values is not None
        given = (batch.values, batch.returns.detach(), batch.old_values.detach())
        return Loss(self.loss(*(clean(x, batch.valid) for x in given), batch))

    @abstractmethod
    def loss(self, v: Tensor, r: Tensor, old: Tensor, batch: ValueBatch) -> Tensor: ...

    def near(self, v: Tensor, centre: Tensor) -> Tensor:
        """Return the value held near a centre."""
        return centre + (v - centre).clamp(-self.clip, self.clip)


class PlainMSE(Residual):
    """The contested factor: no half, and no claim that depends on it."""

    name = "square"
    claims = frozenset({"zero-at-target", "non-negative", "at-least-mse", "mean-minimises", "even-in-the-error"})

    def loss(self, e: Tensor, batch: ValueBatch) -> Tensor:
        return e**2


class Expanded(Held):
    """The clipped loss by cases."""

    name = "clipped_by_cases"
    implements = "clipped"
    claims = REGISTRY.get("value", "clipped").claims

    def loss(self, v: Tensor, r: Tensor, old: Tensor, batch: ValueBatch) -> Tensor:
        low, high = old - self.clip, old + self.clip
        held = torch.where(v > high, high, torch.where(v < low, low, v))
        return torch.where((held - r).abs() > (v - r).abs(), 0.5 * (held - r) ** 2, 0.5 * (r - v) ** 2)


class ByClamp(Huber):
    """Huber's loss as g e − ½ g², g the held error."""

    name = "huber_by_clamp"
    implements = "huber"
    claims = REGISTRY.get("value", "huber").claims

    def loss(self, e: Tensor, batch: ValueBatch) -> Tensor:
        held = e.detach().clamp(-self.delta, self.delta)
        return held * e - 0.5 * held**2


class Expectile(Residual):
    """Its minimiser is an expectile, not the mean."""

    name = "expectile"
    claims = frozenset({"zero-at-target", "non-negative", "depends-on-differences-only", "gradient-of-its-value"})
    tau: float = Field(default=0.7, gt=0, lt=1)

    def loss(self, e: Tensor, batch: ValueBatch) -> Tensor:
        return torch.where(e > 0, 1 - self.tau, self.tau).to(e) * e**2


class Quantile(Residual):
    """Its minimiser is a quantile."""

    name = "quantile"
    claims = frozenset({"non-negative", "gradient-of-its-value"})
    tau: float = Field(default=0.5, gt=0, lt=1)

    def loss(self, e: Tensor, batch: ValueBatch) -> Tensor:
        return torch.maximum((self.tau - 1) * -e, self.tau * -e)


class TrustRegion(Held):
    """A value that stays near the old one may be pushed away from its target."""

    name = "trust_region"

    def loss(self, v: Tensor, r: Tensor, old: Tensor, batch: ValueBatch) -> Tensor:
        return 0.5 * (v - r) ** 2 + self.clip * (v - old) ** 2


CONTROLS: list[type[Component]] = [PlainMSE, Expanded, ByClamp, Expectile, Quantile, TrustRegion]
