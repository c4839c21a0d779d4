"""Right normalizers in another form."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.normalizer_forms import Grouped, Standardised
from mutants.normalizer_groups import GroupMeanBatchScale
from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories

__all__ = ["GroupMeanThenBatchScale", "PairwiseBatch", "PairwiseGroup", "PlainTorch", "ScaledOnly"]


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
