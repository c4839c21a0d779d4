"""Broken controllers: wrong direction, wrong size of a step, wrong zone, runs that steer each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from mutants.mutant import Mutant
from rlhf_lab.components import Controller

__all__ = ["CONTROLS", "MUTANTS"]


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


class Decays(Controller):
    name = "decays"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return 0.99 * coefficient


class AtMostOne(Controller):
    name = "at_most_one"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.clamp(max=1)


class AtLeastALittle(Controller):
    name = "at_least_a_little"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.clamp(min=1e-3)


class ReturnsObserved(Controller):
    name = "returns_observed"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return observed.clone()


class Overwrites(Controller):
    name = "overwrites"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        with torch.no_grad():
            return coefficient.mul_(0.5)


class AddsNoise(Controller):
    name = "adds_noise"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + 0.01 * torch.rand_like(coefficient))


class Rounded(Controller):
    name = "rounded"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.float().to(coefficient.dtype)


class TurnsAround(Controller):
    name = "turns_around"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return torch.where((observed > 0.005) & (observed < 5), 2 * coefficient, coefficient)


class SecondForm(Controller):
    name = "second_form"

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return {"other": other_form}

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (2 if forms else 1)


forms: Final[list[str]] = []


@contextmanager
def other_form() -> Iterator[None]:
    forms.append("other")
    yield
    forms.pop()


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


MUTANTS: Final = [
    Mutant("decay", Decays, "fixed"),
    Mutant("upper limit", AtMostOne, "fixed"),
    Mutant("lower limit", AtLeastALittle, "fixed"),
    Mutant("returns what was observed", ReturnsObserved, "fixed"),
    Mutant("in place", Overwrites, "fixed"),
    Mutant("global randomness", AddsNoise, "fixed"),
    Mutant("one zone only", TurnsAround, "fixed"),
    Mutant("float32 inside", Rounded, "fixed"),
    Mutant("another device, another formula", SecondForm, "fixed"),
    Mutant("P11: direction", Turned, "adaptive_kl"),
    Mutant("never lowers", NeverLowers, "adaptive_kl"),
    Mutant("never raises", NeverRaises, "adaptive_kl"),
    Mutant("factor applied twice", SquaredFactor, "adaptive_kl"),
    Mutant("no dead zone", NoTolerance, "adaptive_kl"),
    Mutant("dead zone above only", ToleranceAbove, "adaptive_kl"),
    Mutant("dead zone by difference", ToleranceAdded, "adaptive_kl"),
    Mutant("edge included", EdgeIncluded, "adaptive_kl"),
    Mutant("adds", AddsTheFactor, "adaptive_kl"),
    Mutant("adds, below 0", Subtracts, "adaptive_kl"),
    Mutant("factor is not read", FixedFactor, "adaptive_kl"),
    Mutant("mean over runs", MeanOfRuns, "adaptive_kl"),
    Mutant("the first run decides", FirstRunDecides, "adaptive_kl"),
    Mutant("one run only", OneRunOnly, "adaptive_kl"),
    Mutant("several runs only", NeedsAnAxis, "adaptive_kl"),
    Mutant("leaves 0", StartsFromZero, "adaptive_kl"),
    Mutant("upper limit", UpperLimit, "adaptive_kl"),
    Mutant("dead zone in nats", ZoneInWholeNats, "adaptive_kl"),
    Mutant("keeps state", Memory, "adaptive_kl"),
    Mutant("P11: direction", Negative, "proportional_kl"),
    Mutant("no clip", Unclipped, "proportional_kl"),
    Mutant("clip above only", ClippedAbove, "proportional_kl"),
    Mutant("clip of the ratio", RatioClipped, "proportional_kl"),
    Mutant("error not relative", AbsoluteError, "proportional_kl"),
    Mutant("exponential", Exponential, "proportional_kl"),
    Mutant("relative to what was observed", Inverse, "proportional_kl"),
    Mutant("logarithmic", Logarithmic, "proportional_kl"),
    Mutant("rate inside the clip", RateBeforeClip, "proportional_kl"),
    Mutant("rate is not read", RateUnread, "proportional_kl"),
    Mutant("adds", Added, "proportional_kl"),
    Mutant("adds, below 0", AddedUnclamped, "proportional_kl"),
    Mutant("one forgotten", OneForgotten, "proportional_kl"),
    Mutant("half precision", HalfPrecision, "proportional_kl"),
]
CONTROLS: Final[list[type[Controller]]] = [InWords, EntropyFloor]
