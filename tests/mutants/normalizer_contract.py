"""Normalizers that change what they should leave, or how they may be called."""

from __future__ import annotations

from mutants.normalizer_forms import Standardised
from mutants.two_forms import TwoForms
from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories

__all__ = [
    "Bounded",
    "BoundedFarAway",
    "Centred",
    "Halved",
    "Lifted",
    "MixesRuns",
    "Overwritten",
    "PaddingFilled",
    "Returned",
    "RewardsLeakIn",
    "Rounded",
    "SecondForm",
    "Signs",
]


class Halved(AdvantageNormalizer):
    name = "halved"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages / 2, advantages.returns)


class Bounded(AdvantageNormalizer):
    name = "bounded"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages.clamp(-2, 2), advantages.returns)


class Centred(AdvantageNormalizer):
    name = "centred"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x = advantages.advantages
        return Advantages((x - x.mean()).masked_fill(~batch.valid, 0) if x.numel() else x, advantages.returns)


class Signs(AdvantageNormalizer):
    name = "signs"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages.sign(), advantages.returns)


class Returned(AdvantageNormalizer):
    name = "returned"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        returns = advantages.returns
        return Advantages(advantages.advantages if returns is None else returns.masked_fill(~batch.valid, 0), returns)


class PaddingFilled(AdvantageNormalizer):
    name = "padding_filled"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages.masked_fill(~batch.valid, 1), advantages.returns)


class Rounded(AdvantageNormalizer):
    name = "rounded"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x = advantages.advantages
        return Advantages(x.float().to(x.dtype), advantages.returns)


class Lifted(AdvantageNormalizer):
    """Adds a large number and takes it off again: right in float64, and a few digits in float32."""

    name = "lifted"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x = advantages.advantages
        return Advantages(((x + 1e8) - 1e8).masked_fill(~batch.valid, 0), advantages.returns)


class BoundedFarAway(AdvantageNormalizer):
    name = "bounded_far_away"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages.clamp(-10, 10), advantages.returns)


class Overwritten(AdvantageNormalizer):
    name = "overwritten"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        advantages.advantages.copy_(Standardised()(batch, advantages).advantages)
        return advantages


class RewardsLeakIn(AdvantageNormalizer):
    name = "rewards_leak_in"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages + 0 * batch.rewards, advantages.returns)


class MixesRuns(AdvantageNormalizer):
    name = "mixes_runs"
    stacked = True

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x, counts = advantages.advantages, batch.valid
        middle = x[counts].mean() if bool(counts.any()) else 0.0
        return Advantages((x - middle).masked_fill(~counts, 0), advantages.returns)


class SecondForm(TwoForms, AdvantageNormalizer):
    name = "second_form"
    scope = "step"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages * (2 if self.second else 1), advantages.returns)
