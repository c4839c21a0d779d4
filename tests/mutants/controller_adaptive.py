"""Mutants of adaptive_kl."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from mutants.controller_bases import Adaptive

__all__ = [
    "AddsTheFactor",
    "EdgeIncluded",
    "FirstRunDecides",
    "FixedFactor",
    "MeanOfRuns",
    "Memory",
    "NeedsAnAxis",
    "NeverLowers",
    "NeverRaises",
    "NoTolerance",
    "OneRunOnly",
    "SquaredFactor",
    "StartsFromZero",
    "Subtracts",
    "ToleranceAbove",
    "ToleranceAdded",
    "Turned",
    "UpperLimit",
    "ZoneInWholeNats",
    "seen",
]


class Turned(Adaptive):
    name = "turned"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        low = observed > self.target * self.tolerance
        return self.stepped(coefficient, observed < self.target / self.tolerance, low)


class NeverLowers(Adaptive):
    name = "never_lowers"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return torch.where(observed > self.target * self.tolerance, coefficient * self.factor, coefficient)


class NeverRaises(Adaptive):
    name = "never_raises"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return torch.where(observed < self.target / self.tolerance, coefficient / self.factor, coefficient)


class SquaredFactor(Adaptive):
    name = "squared_factor"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        once = self.stepped(
            coefficient, observed > self.target * self.tolerance, observed < self.target / self.tolerance
        )
        return torch.where(observed > self.target * self.tolerance, once * self.factor, once)


class NoTolerance(Adaptive):
    name = "no_tolerance"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return self.stepped(coefficient, observed > self.target, observed < self.target)


class ToleranceAbove(Adaptive):
    name = "tolerance_above"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return self.stepped(coefficient, observed > self.target * self.tolerance, observed < self.target)


class ToleranceAdded(Adaptive):
    name = "tolerance_added"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        low = observed < self.target * (2 - self.tolerance)
        return self.stepped(coefficient, observed > self.target * self.tolerance, low)


class EdgeIncluded(Adaptive):
    name = "edge_included"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return self.stepped(
            coefficient, observed >= self.target * self.tolerance, observed <= self.target / self.tolerance
        )


class AddsTheFactor(Adaptive):
    name = "adds_the_factor"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return (coefficient + self.factor * high - self.factor * low).clamp(min=0)


class Subtracts(Adaptive):
    name = "subtracts"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return coefficient + self.factor * high - self.factor * low


class FixedFactor(Adaptive):
    name = "fixed_factor"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return torch.where(high, 2 * coefficient, torch.where(low, coefficient / 2, coefficient))


class MeanOfRuns(Adaptive):
    name = "mean_of_runs"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        seen = observed.mean().expand(coefficient.shape)
        return self.stepped(coefficient, seen > self.target * self.tolerance, seen < self.target / self.tolerance)


class FirstRunDecides(Adaptive):
    name = "first_run_decides"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        if float(observed.flatten()[0]) > self.target * self.tolerance:
            return coefficient * self.factor
        low = float(observed.flatten()[0]) < self.target / self.tolerance
        return coefficient / self.factor if low else coefficient.clone()


class OneRunOnly(Adaptive):
    name = "one_run_only"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        if observed > self.target * self.tolerance:
            return coefficient * self.factor
        return coefficient / self.factor if observed < self.target / self.tolerance else coefficient.clone()


class NeedsAnAxis(Adaptive):
    name = "needs_an_axis"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        pairs = [(float(c), float(o)) for c, o in zip(coefficient, observed, strict=True)]
        steps = [
            self.factor
            if o > self.target * self.tolerance
            else 1 / self.factor
            if o < self.target / self.tolerance
            else 1
            for _, o in pairs
        ]
        return coefficient * torch.tensor(steps, dtype=coefficient.dtype)


class StartsFromZero(Adaptive):
    name = "starts_from_zero"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return self.stepped(coefficient.clamp(min=0.01), high, low)


class UpperLimit(Adaptive):
    name = "upper_limit"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return self.stepped(coefficient, high, low).clamp(max=10)


class ZoneInWholeNats(Adaptive):
    name = "zone_in_nats"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return self.stepped(
            coefficient, observed > self.target + self.tolerance, observed < self.target - self.tolerance
        )


class Memory(Adaptive):
    name = "memory"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        seen.append(float(observed.sum()))
        high, low = observed > self.target * self.tolerance, observed < self.target / self.tolerance
        return self.stepped(coefficient, high & (len(seen) % 2 == 0), low)


seen: Final[list[float]] = []
