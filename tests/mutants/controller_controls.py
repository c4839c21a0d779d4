"""Right controllers in another form."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from mutants.controller_bases import Adaptive
from rlhf_lab.components import Controller

__all__ = ["EntropyFloor", "InWords"]


class InWords(Adaptive):
    """Right: run by run, with logarithms."""

    name = "in_words"
    implements = "adaptive_kl"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        ratio = observed / self.target
        return coefficient * self.factor ** (
            (ratio > self.tolerance).double() - (ratio * self.tolerance < 1).double()
        ).to(coefficient.dtype)


class EntropyFloor(Controller):
    """Right: an entropy bonus, which rises where the observed entropy falls below its target."""

    name = "entropy_floor"
    target: float = Field(default=0.5, gt=0)
    rate: float = Field(default=0.25, gt=0)
    claims = frozenset({"fixed-point-at-target"})

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return (coefficient + self.rate * (self.target - observed)).clamp(min=0)
