"""Right controllers, whose parts the mutants replace."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Controller

__all__ = ["Adaptive", "Proportional"]


class Adaptive(Controller):
    """Parameters of adaptive_kl."""

    stacked = True
    target: float = Field(default=0.01, gt=0)
    tolerance: float = Field(default=1.5, ge=1)
    factor: float = Field(default=2.0, gt=1)

    def stepped(self, coefficient: Tensor, high: Tensor, low: Tensor) -> Tensor:
        return torch.where(high, coefficient * self.factor, torch.where(low, coefficient / self.factor, coefficient))


class Proportional(Controller):
    """Parameters of proportional_kl."""

    stacked = True
    target: float = Field(default=6.0, gt=0)
    rate: float = Field(default=0.1, gt=0, le=1)
    clip: float = Field(default=0.2, gt=0, lt=1)
