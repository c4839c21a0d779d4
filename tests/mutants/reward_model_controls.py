"""Right reward-model losses that may not be called wrong."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import huber_loss, relu, softplus

from rlhf_lab.components import Component
from rlhf_lab.types import Loss, Scores, clean

from .reward_model_bases import (
    Margin,
    Pairs,
    Pointwise,
    Rankings,
    mask_of,
)
from .reward_model_right import RIGHT

__all__ = ["CONTROLS"]


class Hinge(Pairs):
    name = "hinge"
    claims = frozenset({"depends-on-differences-only", "non-negative", "convex-in-scores", "sorted-is-likeliest"})

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return relu(1 - d)


class SquaredMargin(Margin):
    name = "squared_margin"
    claims = frozenset({"depends-on-differences-only", "non-negative", "convex-in-scores", "gradient-of-its-value"})

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        assert batch.margins is not None
        return (d - batch.margins.detach()).square()


class Smoothed(Pairs):
    name = "smoothed"
    claims = frozenset({"depends-on-differences-only", "log-two-at-equal-scores", "gradient-bounded-by-one"})
    rate: float = Field(default=0.1, ge=0, lt=0.5)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return softplus(-d) + self.rate * d


class ByPlaces(Rankings):
    """A ranking whose early places count more, in the mean over places."""

    name = "plackett_luce_by_places"
    claims = frozenset({"depends-on-differences-only", "non-negative", "convex-in-scores", "gradient-of-its-value"})

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        s = s.masked_fill(~v, -1e30)
        dear = 0.5 ** torch.arange(s.shape[-1]).to(s)
        return (dear * clean(s.flip(-1).logcumsumexp(-1).flip(-1) - s, v)).sum(-1) / v.sum(-1).clamp(min=1)


class SumOfPairs(Rankings):
    """Weighs a ranking by how many pairs it has."""

    name = "sum_of_pairs"
    claims = frozenset({"pairs-are-bradley-terry", "sorted-is-likeliest", "raises-best-lowers-worst"})

    def __call__(self, batch: Scores) -> Loss:
        count = mask_of(batch).sum(-1).to(batch.scores)
        return Loss(super().__call__(batch).values, count * (count - 1) / 2)

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        both = (v[..., :, None] & v[..., None, :]).triu(1)
        losses = clean(softplus(s[..., None, :] - s[..., :, None]), both).sum((-2, -1))
        return losses / both.sum((-2, -1)).clamp(min=1)


class Robust(Pointwise):
    name = "huber_regression"
    claims = frozenset({"targets-minimise", "zero-at-targets", "non-negative", "order-has-no-meaning"})

    def loss(self, s: Tensor, y: Tensor, v: Tensor, batch: Scores) -> Tensor:
        return clean(huber_loss(s, y, reduction="none"), v).sum(-1)


class TiedGroups(Rankings):
    """A ranking in which candidates of equal rank are rivals of each other (Breslow's form)."""

    name = "plackett_luce_with_ties"
    requires = frozenset({"ranks"})
    claims = frozenset({"depends-on-differences-only", "non-negative", "convex-in-scores"})

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        assert batch.ranks is not None
        valid = mask_of(batch)
        ranks = clean(batch.ranks, valid).gather(-1, (~valid).int().argsort(dim=-1, stable=True))
        left = (ranks[..., None, :] >= ranks[..., :, None]) & v[..., None, :]
        rivals = s[..., None, :].expand(left.shape).masked_fill(~left, -1e30).logsumexp(-1)
        return clean(rivals - s, v).sum(-1)


CONTROLS: list[type[Component]] = [*RIGHT, Hinge, SquaredMargin, Smoothed, ByPlaces, SumOfPairs, Robust, TiedGroups]
