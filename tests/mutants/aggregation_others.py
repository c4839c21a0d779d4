"""Aggregations with a wrong constant, wrong places, or a trace left behind."""

from __future__ import annotations

from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from mutants.aggregation_bases import once, shares
from mutants.two_forms import TwoForms
from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights

__all__ = [
    "AllStepsOfTheBatch",
    "CappedLength",
    "ChangesTheMask",
    "ConstantNotAveraged",
    "ConstantOverSteps",
    "CountsGrow",
    "FirstStepsOnly",
    "LaterStepsWeighLess",
    "LengthMultiplies",
    "LengthUnread",
    "LongestRow",
    "NeighboursAverage",
    "SecondForm",
    "Signed",
    "seen",
]


class LongestRow(Aggregation):
    name = "longest_row"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        longest = valid.sum(-1).amax(-1)[..., None, None].clamp(min=1) if valid.numel() else 1
        return Weights(valid.double(), self.length * longest * shares(valid, ends))


class LengthUnread(Aggregation):
    name = "length_unread"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), shares(valid, ends))


class LengthMultiplies(Aggregation):
    name = "length_multiplies"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(self.length * valid.double(), shares(valid, ends))


class ConstantOverSteps(Aggregation):
    name = "constant_over_steps"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), self.length * valid.double())


class ConstantNotAveraged(Aggregation):
    name = "constant_not_averaged"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), self.length * once(valid))


class CappedLength(Aggregation):
    name = "capped_length"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(
            valid.double(), shares(valid, ends) * (1 / shares(valid, ends).clamp(0.01)).clamp(max=self.length)
        )


class LaterStepsWeighLess(Aggregation):
    name = "later_steps_weigh_less"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = valid * 0.5 ** valid.cumsum(-1).double()
        return Weights(weights, weights)


class FirstStepsOnly(Aggregation):
    name = "first_steps_only"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        starts = torch.cat([torch.ones_like(ends[..., :1]), ends[..., :-1]], dim=-1) & valid
        return Weights(starts.double(), starts.double())


class Signed(Aggregation):
    name = "signed"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(-valid.double(), -valid.double())


class AllStepsOfTheBatch(Aggregation):
    name = "all_steps_of_the_batch"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        labels = (ends.flatten().cumsum(0) - ends.flatten().long()).view(ends.shape)
        counts = torch.bincount(labels[valid], minlength=int(labels.max()) + 1 if labels.numel() else 1)
        own = valid / counts[labels].clamp(min=1).double()
        return Weights(own, own)


class NeighboursAverage(Aggregation):
    name = "neighbours_average"
    scope = "step"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(shares(valid, ends), shares(valid, ends))


class CountsGrow(Aggregation):
    name = "counts_grow"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        seen.append(float(valid.sum()))
        return Weights(valid.double(), once(valid, sum(seen)))


seen: Final[list[float]] = []


class ChangesTheMask(Aggregation):
    name = "changes_the_mask"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = valid.double()
        valid[..., -1:] = False
        return Weights(weights, weights)


class SecondForm(TwoForms, Aggregation):
    name = "second_form"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return Weights(valid.double(), shares(valid, ends) if self.second else valid.double())
