"""Broken normalizers: statistics of the wrong rows or steps, constants that explode, targets that change.

Codes are those of the list of real bugs. ``normalizer_forms`` are right; mutants override what they count, their centre
or their scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch
from torch import Tensor

from mutants.mutant import Mutant
from mutants.normalizer_forms import Grouped, Standardised
from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories

__all__ = ["CONTROLS", "MUTANTS"]


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


class Contiguous(Grouped):
    name = "contiguous"

    def labels(self, batch: Trajectories) -> Tensor:
        assert batch.group_ids is not None
        size = max(1, len(batch.group_ids) // max(1, len(batch.group_ids.unique())))
        return torch.arange(len(batch.group_ids)) // size


class Neighbours(Grouped):
    name = "neighbours"

    def labels(self, batch: Trajectories) -> Tensor:
        assert batch.group_ids is not None
        found: Tensor = batch.group_ids.unique_consecutive(return_inverse=True)[1]
        return found


class WholeBatch(Grouped):
    name = "whole_batch"

    def labels(self, batch: Trajectories) -> Tensor:
        assert batch.group_ids is not None
        return batch.group_ids * 0


class OddAndEven(Grouped):
    name = "odd_and_even"

    def labels(self, batch: Trajectories) -> Tensor:
        assert batch.group_ids is not None
        return batch.group_ids % 2


class GroupMeanBatchScale(Grouped):
    name = "group_mean_batch_scale"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        counts = (weights.sum(0) > 0).double().expand(weights.shape)
        scale = self.scale(x, counts, counts.sum(1).clamp(min=1e-300))
        return torch.where(scale > 0, (x - self.centre(x, weights, sizes)) / (scale + self.eps), 0)


class BatchMeanGroupScale(Grouped):
    name = "batch_mean_group_scale"

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        counts = (weights.sum(0) > 0).double()
        return (counts * x).sum() / counts.sum().clamp(min=1) + 0 * x


class WithoutOwn(Grouped):
    name = "without_own"

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return (weights @ x - x) / (sizes - 1).clamp(min=1)


class GroupOfRows(Grouped):
    name = "group_of_rows"

    def weights(self, batch: Trajectories) -> Tensor:
        return batch.valid / batch.valid.sum(-1, keepdim=True).clamp(min=1).double()


class ScaleByGroupId(Grouped):
    name = "scale_by_group_id"

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        assert batch.group_ids is not None
        return Advantages(found * (1 + 0.125 * batch.group_ids.double()[:, None]).to(found.dtype), advantages.returns)


class GroupTurned(Grouped):
    name = "group_turned"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return -super().scaled(x, weights, sizes)


class GroupAloneKept(Grouped):
    name = "group_alone_kept"

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return torch.where(sizes <= 1, x, super().scaled(x, weights, sizes))


class GroupNoScale(Grouped):
    name = "group_no_scale"

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return super().scale(x, weights, sizes).sign()


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


class SecondForm(AdvantageNormalizer):
    name = "second_form"
    scope = "step"

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return {"other": other_form}

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return Advantages(advantages.advantages * (2 if forms else 1), advantages.returns)


forms: Final[list[str]] = []


@contextmanager
def other_form() -> Iterator[None]:
    forms.append("other")
    yield
    forms.pop()


class PairwiseBatch(Standardised):
    """Right: every pair of steps is compared."""

    name = "pairwise_batch"
    implements = "batch"


class PairwiseGroup(Grouped):
    """Right: every pair of steps is compared."""

    name = "pairwise_group"
    implements = "group"


class PlainTorch(AdvantageNormalizer):
    """Right: what PPO implementations do, in the dtype of the advantages and with both constants fixed."""

    name = "plain_torch"
    implements = "batch"
    conventions = {"over": "steps", "ddof": 1, "eps": 1e-8}  # noqa: RUF012
    claims = frozenset(
        {"mean-zero", "unit-deviation", "shifted-and-scaled", "shift-invariant", "constant-is-zero", "odd"}
    )

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x = advantages.advantages[batch.valid]
        if len(x) < 2:
            return Advantages(torch.zeros_like(advantages.advantages), advantages.returns)
        found = (advantages.advantages - x.mean()) / (x.std() + 1e-8)
        return Advantages(found.masked_fill(~batch.valid, 0), advantages.returns)


class GroupMeanThenBatchScale(GroupMeanBatchScale):
    """Right, though none of the definitions: REINFORCE++ with a baseline; its scope is the batch."""

    name = "group_mean_then_batch_scale"
    scope = "batch"


class ScaledOnly(Standardised):
    """Right, though none of the definitions: divided by the root mean square, so that signs stay."""

    name = "scaled_only"
    claims = frozenset({"shifted-and-scaled", "odd"})

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        scale = (weights @ x.square() / sizes).sqrt() * (1 + self.ddof)
        return torch.where(scale > 0, x / (scale + self.eps), 0)


_BATCH: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("mean forgotten", NoMean),
    ("deviation forgotten", NoScale),
    ("variance for deviation", Variance),
    ("median", Median),
    ("P23: overall sign", Turned),
    ("largest is one", LargestIsOne),
    ("from zero to one", ZeroToOne),
    ("clipped", Clipped),
    ("squashed", Squashed),
    ("eps inside the root", EpsInsideRoot),
    ("eps as a minimum", AtLeastEps),
    ("the other ddof", OtherDdof),
    ("ddof is not read", DdofUnread),
    ("over is not read", OverUnread),
    ("a row is an episode", RowsForEpisodes),
    ("ends alone count", EndsForEpisodes),
    ("N08", PadsCount),
    ("N09", PadsMoved),
    ("N07", EmptyIsNaN),
    ("one alone keeps its value", Alone),
    ("equal ones keep their value", ConstantKept),
    ("cancellation", Cancels),
    ("targets shifted too", TargetsToo),
    ("A12: targets lost", TargetsLost),
    ("targets invented", TargetsInvented),
    ("each row for itself", EachRow),
    ("each position for itself", EachPosition),
    ("statistics so far", SoFar),
    ("statistics of finished rows", TerminatedOnly),
    ("rewards for advantages", OfRewards),
    ("signs scaled apart", SignsApart),
    ("statistics of the first rows", FirstRowsOnly),
    ("in place", InPlace),
    ("in place, in the raw advantages", Overwritten),
    ("runs mixed", MixesRuns),
    ("global randomness", NoisyTies),
    ("single precision", SinglePrecision),
]
_GROUP: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("N02", Contiguous),
    ("N02: neighbouring rows", Neighbours),
    ("N04", WholeBatch),
    ("ids modulo two", OddAndEven),
    ("scale of the batch", GroupMeanBatchScale),
    ("mean of the batch", BatchMeanGroupScale),
    ("mean of the others", WithoutOwn),
    ("rows weigh alike", GroupOfRows),
    ("scaled by the id", ScaleByGroupId),
    ("P23: overall sign", GroupTurned),
    ("N07: one alone keeps its value", GroupAloneKept),
    ("deviation forgotten", GroupNoScale),
    ("N04: groups ignored", EachRow),
]
_NONE: Final[list[tuple[str, type[AdvantageNormalizer]]]] = [
    ("halved", Halved),
    ("clipped", Bounded),
    ("clipped far away", BoundedFarAway),
    ("float32 inside", Rounded),
    ("centred", Centred),
    ("signs only", Signs),
    ("targets for advantages", Returned),
    ("N09", PaddingFilled),
    ("N15", RewardsLeakIn),
    ("another device, another formula", SecondForm),
]
MUTANTS: Final = [
    Mutant(bug, component, imitates)
    for imitates, found in (("batch", _BATCH), ("group", _GROUP), ("none", _NONE))
    for bug, component in found
]
CONTROLS: Final[list[type[AdvantageNormalizer]]] = [
    PairwiseBatch,
    PairwiseGroup,
    PlainTorch,
    GroupMeanThenBatchScale,
    ScaledOnly,
]
