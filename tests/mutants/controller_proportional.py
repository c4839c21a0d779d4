"""Mutants of proportional_kl."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.controller_bases import Proportional

__all__ = [
    "AbsoluteError",
    "Added",
    "AddedUnclamped",
    "ClippedAbove",
    "Exponential",
    "HalfPrecision",
    "Inverse",
    "Logarithmic",
    "Negative",
    "OneForgotten",
    "RateBeforeClip",
    "RateUnread",
    "RatioClipped",
    "Unclipped",
]


class Negative(Proportional):
    name = "negative"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (1 - observed / self.target).clamp(-self.clip, self.clip)
        return coefficient * (1 + self.rate * error)


class Unclipped(Proportional):
    name = "unclipped"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return (coefficient * (1 + self.rate * (observed / self.target - 1))).clamp(min=0)


class ClippedAbove(Proportional):
    name = "clipped_above"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + self.rate * (observed / self.target - 1).clamp(max=self.clip))


class RatioClipped(Proportional):
    name = "ratio_clipped"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + self.rate * (observed / self.target).clamp(-self.clip, self.clip))


class AbsoluteError(Proportional):
    name = "absolute_error"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + self.rate * (observed - self.target).clamp(-self.clip, self.clip))


class Exponential(Proportional):
    name = "exponential"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (self.rate * (observed / self.target - 1).clamp(-self.clip, self.clip)).exp()


class Inverse(Proportional):
    name = "inverse"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (1 - self.target / observed.clamp(min=1e-9)).clamp(-self.clip, self.clip)
        return coefficient * (1 + self.rate * error)


class Logarithmic(Proportional):
    name = "logarithmic"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (observed.clamp(min=1e-9) / self.target).log().clamp(-self.clip, self.clip)
        return coefficient * (1 + self.rate * error)


class RateBeforeClip(Proportional):
    name = "rate_before_clip"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + (self.rate * (observed / self.target - 1)).clamp(-self.clip, self.clip))


class RateUnread(Proportional):
    name = "rate_unread"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + 0.1 * (observed / self.target - 1).clamp(-self.clip, self.clip))


class Added(Proportional):
    name = "added"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (observed / self.target - 1).clamp(-self.clip, self.clip)
        return (coefficient + self.rate * error).clamp(min=0)


class AddedUnclamped(Proportional):
    name = "added_unclamped"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient + self.rate * (observed / self.target - 1).clamp(-self.clip, self.clip)


class OneForgotten(Proportional):
    name = "one_forgotten"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return (coefficient * self.rate * (observed / self.target - 1).clamp(-self.clip, self.clip)).abs()


class HalfPrecision(Proportional):
    name = "half_precision"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        error = (observed / self.target - 1).clamp(-self.clip, self.clip)
        narrow = torch.half if coefficient.dtype == torch.float32 else coefficient.dtype
        return (coefficient * (1 + self.rate * error)).to(narrow).to(coefficient.dtype)
