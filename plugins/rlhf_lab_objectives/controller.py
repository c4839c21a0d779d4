"""How a KL coefficient follows the divergence that was observed. Pure and elementwise over runs, without gradient."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Controller

__all__ = ["AdaptiveKL", "Fixed", "ProportionalKL"]


class Fixed(Controller):
    """The coefficient stays what it is.

    ``β ← β``
    """

    name = "fixed"
    claims = frozenset(
        {
            "never-changes",
            "more-divergence-never-lowers",
            "zero-stays-zero",
            "proportional-to-the-coefficient",
        }
    )
    implements = "fixed"
    stacked = True

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient


class AdaptiveKL(Controller):
    """Raises the coefficient by a factor where the divergence is far above its target, and lowers it where far below.

    ``β ← factor β`` where ``KL > tolerance · target``;  ``β / factor`` where ``KL < target / tolerance``;  else ``β``

    A coefficient of 0 stays 0. ``coefficient``, ``observed``: ``[]`` or ``[runs]``.

    Source: Schulman et al. 2017, section 4.
    """

    name = "adaptive_kl"
    reference = "Schulman et al. 2017, section 4"
    claims = frozenset(
        {
            "more-divergence-never-lowers",
            "zero-stays-zero",
            "proportional-to-the-coefficient",
            "fixed-point-at-target",
            "moves-towards-target",
            "dead-zone",
            "steps-by-a-factor",
            "step-within-factor",
        }
    )
    implements = "adaptive_kl"
    stacked = True
    target: float = Field(default=0.01, gt=0, allow_inf_nan=False, description="divergence to be held, in nats")
    tolerance: float = Field(default=1.5, ge=1, description="ratio to the target within which nothing changes")
    factor: float = Field(default=2.0, gt=1, allow_inf_nan=False, description="by what the coefficient changes")

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        lowered = torch.where(observed < self.target / self.tolerance, coefficient / self.factor, coefficient)
        return torch.where(observed > self.target * self.tolerance, coefficient * self.factor, lowered)


class ProportionalKL(Controller):
    """Moves the logarithm of the coefficient about in proportion to the relative error of the divergence.

    ``β ← β (1 + rate · clip(KL / target − 1, −clip, clip))``

    A coefficient of 0 stays 0. Libraries often scale ``rate`` by batch size over a horizon; here it is per call.
    ``coefficient``, ``observed``: ``[]`` or ``[runs]``; the default target is that of whole responses.

    Source: Ziegler et al. 2019, section 2.2.
    """

    name = "proportional_kl"
    reference = "Ziegler et al. 2019, section 2.2"
    claims = frozenset(
        {
            "more-divergence-never-lowers",
            "zero-stays-zero",
            "proportional-to-the-coefficient",
            "fixed-point-at-target",
            "moves-towards-target",
            "linear-within-clip",
            "saturates-beyond-clip",
            "step-within-rate-times-clip",
        }
    )
    implements = "proportional_kl"
    stacked = True
    target: float = Field(default=6.0, gt=0, allow_inf_nan=False, description="divergence to be held, in nats")
    rate: float = Field(default=0.1, gt=0, le=1, description="relative change per relative error")
    clip: float = Field(default=0.2, gt=0, lt=1, description="largest relative error that counts")

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (observed / self.target - 1).clamp(-self.clip, self.clip)
        return coefficient * (1 + self.rate * error)
