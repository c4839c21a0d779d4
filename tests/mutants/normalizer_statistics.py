"""Normalizers with broken statistics of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.normalizer_forms import Standardised
from rlhf_lab.types import Advantages, Trajectories

__all__ = [
    "Alone",
    "AtLeastEps",
    "Cancels",
    "Clipped",
    "ConstantKept",
    "DdofUnread",
    "EachPosition",
    "EachRow",
    "EmptyIsNaN",
    "EndsForEpisodes",
    "EpsInsideRoot",
    "FirstRowsOnly",
    "InPlace",
    "LargestIsOne",
    "Median",
    "NoMean",
    "NoScale",
    "NoisyTies",
    "OfRewards",
    "OtherDdof",
    "OverUnread",
    "PadsCount",
    "PadsMoved",
    "RowsForEpisodes",
    "SignsApart",
    "SinglePrecision",
    "SoFar",
    "Squashed",
    "TargetsInvented",
    "TargetsLost",
    "TargetsToo",
    "TerminatedOnly",
    "Turned",
    "Variance",
    "ZeroToOne",
]


class NoMean(Standardised):
    name = "no_mean"

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return torch.zeros_like(x)


class NoScale(Standardised):
    name = "no_scale"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scale(x, weights, sizes).sign()


class Variance(Standardised):
    name = "variance"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scale(x, weights, sizes) ** 2


class Median(Standardised):
    name = "median"

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return x.expand(weights.shape).masked_fill(weights == 0, torch.nan).nanmedian(1).values.nan_to_num()


class Turned(Standardised):
    name = "turned"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return -super().scaled(x, weights, sizes)


class LargestIsOne(Standardised):
    name = "largest_is_one"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return (weights.sign() * (x - super().centre(x, weights, sizes)[:, None]).abs()).amax(1)


class ZeroToOne(Standardised):
    name = "zero_to_one"

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return x.expand(weights.shape).masked_fill(weights == 0, torch.inf).amin(1).nan_to_num(posinf=0.0)

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return self.spread(x, weights)


class Clipped(Standardised):
    name = "clipped"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scaled(x, weights, sizes).clamp(-1, 1)


class Squashed(Standardised):
    name = "squashed"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scaled(x, weights, sizes).tanh()


class EpsInsideRoot(Standardised):
    name = "eps_inside_root"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        scale = (self.scale(x, weights, sizes) ** 2 + self.eps).sqrt()
        return torch.where(scale > 0, (x - self.centre(x, weights, sizes)) / scale, 0)


class AtLeastEps(Standardised):
    name = "at_least_eps"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        scale = self.scale(x, weights, sizes).clamp(min=self.eps)
        return torch.where(scale > 0, (x - self.centre(x, weights, sizes)) / scale, 0)


class OtherDdof(Standardised):
    name = "other_ddof"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        right = super().scale(x, weights, sizes)
        return right * ((sizes - self.ddof).clamp(min=1) / (sizes - 1 + self.ddof).clamp(min=1)).sqrt()


class DdofUnread(Standardised):
    name = "ddof_unread"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scale(x, weights, sizes) * ((sizes - self.ddof).clamp(min=1) / (sizes - 1).clamp(min=1)).sqrt()


class OverUnread(Standardised):
    name = "over_unread"

    def weights(self, batch: Trajectories) -> Tensor:
        return batch.valid.double()


class RowsForEpisodes(Standardised):
    name = "rows_for_episodes"

    def weights(self, batch: Trajectories) -> Tensor:
        return super().weights(batch) if self.over == "steps" else batch.valid / batch.valid.sum(-1, True).clamp(min=1)


class EndsForEpisodes(Standardised):
    name = "ends_for_episodes"

    def weights(self, batch: Trajectories) -> Tensor:
        return super().weights(batch) if self.over == "steps" else (batch.terminated | batch.truncated).double()


class PadsCount(Standardised):
    name = "pads_count"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        every = torch.ones_like(weights)
        return super().scaled(x, every, every.sum(1))


class PadsMoved(Standardised):
    name = "pads_moved"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        middle = advantages.advantages[batch.valid].mean() if bool(batch.valid.any()) else 0.0
        return Advantages(torch.where(batch.valid, found, -middle), advantages.returns)


class EmptyIsNaN(Standardised):
    name = "empty_is_nan"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x, counts = advantages.advantages, batch.valid
        mean = (x * counts).sum() / counts.sum()
        deviation = ((x - mean).square() * counts).sum() / (counts.sum() - self.ddof)
        return Advantages((x - mean) / (deviation.sqrt() + self.eps) * counts, advantages.returns)


class Alone(Standardised):
    name = "alone"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return torch.where(sizes <= 1, x, super().scaled(x, weights, sizes))


class ConstantKept(Standardised):
    name = "constant_kept"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return torch.where(self.spread(x, weights) == 0, x, super().scaled(x, weights, sizes))


class Cancels(Standardised):
    name = "cancels"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        mean = (weights * x).sum(1) / sizes
        squares = (weights * x**2).sum(1) / sizes - mean**2
        deviation = (squares.clamp(min=0) * sizes / (sizes - self.ddof).clamp(min=1)).sqrt()
        return deviation.masked_fill((sizes <= self.ddof) | (self.spread(x, weights) == 0), 0)


class TargetsToo(Standardised):
    name = "targets_too"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        returns = advantages.returns
        return Advantages(found, None if returns is None else returns - returns.mean())


class TargetsLost(Standardised):
    name = "targets_lost"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        return Advantages(found)


class TargetsInvented(Standardised):
    name = "targets_invented"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        return Advantages(found, advantages.advantages if advantages.returns is None else advantages.returns)


class EachRow(Standardised):
    name = "each_row"

    def together(self, batch: Trajectories) -> Tensor:
        rows = torch.arange(len(batch.valid))[:, None].expand(batch.valid.shape).flatten()
        return rows[:, None] == rows[None, :]


class EachPosition(Standardised):
    name = "each_position"

    def together(self, batch: Trajectories) -> Tensor:
        steps = torch.arange(batch.valid.shape[-1]).expand(batch.valid.shape).flatten()
        return steps[:, None] == steps[None, :]


class SoFar(Standardised):
    name = "so_far"

    def together(self, batch: Trajectories) -> Tensor:
        return super().together(batch).tril()


class TerminatedOnly(Standardised):
    name = "terminated_only"

    def weights(self, batch: Trajectories) -> Tensor:
        return super().weights(batch) * batch.terminated.any(-1, keepdim=True)


class OfRewards(Standardised):
    name = "of_rewards"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return super().__call__(batch, Advantages(batch.rewards.masked_fill(~batch.valid, 0), advantages.returns))


class SignsApart(Standardised):
    name = "signs_apart"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        right = super().scaled(x, weights, sizes)
        return torch.where(right < 0, 2 * right, right)


class FirstRowsOnly(Standardised):
    name = "first_rows_only"

    def weights(self, batch: Trajectories) -> Tensor:
        return super().weights(batch) * (torch.arange(len(batch.valid)) < 2)[:, None]


class InPlace(Standardised):
    name = "in_place"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        batch.rewards.mul_(0.5)
        return Advantages(found, advantages.returns)


class NoisyTies(Standardised):
    name = "noisy_ties"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scaled(x + 1e-3 * torch.rand_like(x), weights, sizes)


class SinglePrecision(Standardised):
    name = "single_precision"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scaled(x.float(), weights.float(), sizes.float())
