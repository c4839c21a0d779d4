"""Normalizers with broken statistics of groups."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.normalizer_forms import Grouped
from rlhf_lab.types import Advantages, Trajectories

__all__ = [
    "BatchMeanGroupScale",
    "Contiguous",
    "GroupAloneKept",
    "GroupMeanBatchScale",
    "GroupNoScale",
    "GroupOfRows",
    "GroupTurned",
    "Neighbours",
    "OddAndEven",
    "ScaleByGroupId",
    "WholeBatch",
    "WithoutOwn",
]


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
