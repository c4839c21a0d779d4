"""Right reward-model losses that may not be called wrong: records in another form, and losses of other definitions."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid, relu, softplus

from rlhf_lab.components import Component, RewardObjective
from rlhf_lab.types import Loss, Refused, Scores, clean

from .mutant import REGISTRY
from .reward_model_bases import (
    Centred,
    Margin,
    Pairs,
    Pointwise,
    Rankings,
    Soft,
    Targets,
    Thresholded,
    Tied,
    mask_of,
    per_row,
)

__all__ = ["CONTROLS"]


def _claims(name: str) -> frozenset[str]:
    return REGISTRY.get("reward_model", name).claims


class BySoftplus(Pairs):
    name = "bradley_terry_by_softplus"
    implements = "bradley_terry"
    claims = _claims("bradley_terry")

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return softplus(-d)


class ByCrossEntropy(Pairs):
    name = "bradley_terry_by_cross_entropy"
    implements = "bradley_terry"
    claims = _claims("bradley_terry")

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -torch.stack([c, r], dim=-1).log_softmax(-1)[..., 0]


class PlainPairs(RewardObjective):
    """Takes two candidates, both valid, and nothing else."""

    name = "plain_pairs"
    implements = "bradley_terry"
    claims = _claims("bradley_terry")
    max_candidates = 2

    def __call__(self, batch: Scores) -> Loss:
        if batch.scores.shape[-1] != 2 or not bool(mask_of(batch).all()):
            raise Refused("a pair has two responses")
        return Loss(-logsigmoid(batch.scores[..., 0] - batch.scores[..., 1]))


class CoinFlipUncounted(Pairs):
    """Has log 2 where there is no pair, with weight 0."""

    name = "coin_flip_uncounted"
    implements = "bradley_terry"
    claims = _claims("bradley_terry")

    def __call__(self, batch: Scores) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(torch.where(loss.weights == 0, math.log(2), loss.values), loss.weights)

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return -logsigmoid(d)


class Handicap(Margin):
    name = "margin_as_a_handicap"
    implements = "bradley_terry_margin"
    claims = _claims("bradley_terry_margin")

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        assert batch.margins is not None
        return softplus(r + batch.margins.detach() - c)


class CentredByParts(Centred):
    name = "centred_by_parts"
    implements = "bradley_terry_centred"
    claims = _claims("bradley_terry_centred")

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        return softplus(-d) + self.coef * (c * c + 2 * c * r + r * r)


class SoftByResidual(Soft):
    name = "soft_by_residual"
    implements = "soft_bradley_terry"
    claims = _claims("soft_bradley_terry")

    def loss(self, d: Tensor, c: Tensor, r: Tensor, batch: Scores) -> Tensor:
        assert batch.preference_prob is not None
        return softplus(d) - batch.preference_prob.detach() * d


class RaoKupperBySums(Thresholded):
    name = "rao_kupper_by_sums"
    implements = "rao_kupper"
    claims = _claims("rao_kupper")


class DavidsonBySums(Tied):
    name = "davidson_by_sums"
    implements = "davidson"
    claims = _claims("davidson")


class ByTriangle(RewardObjective):
    """The Plackett-Luce likelihood by a matrix of all j ≥ k."""

    name = "plackett_luce_by_triangle"
    implements = "plackett_luce"
    claims = _claims("plackett_luce")
    stacked = True

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s, k = clean(batch.scores, valid), batch.scores.shape[-1]
        left = torch.ones(k, k, dtype=torch.bool).triu() & valid[..., None, :]
        rivals = s[..., None, :].expand(*s.shape, k).masked_fill(~left, -1e30).logsumexp(-1)
        counts = valid.sum(-1) > 1
        return Loss(clean(clean(rivals - s, valid).sum(-1), counts), counts.to(s))


class PadsAtMinusInfinity(RewardObjective):
    """Relies on torch, whose cumulative sum of exponentials has no NaN in its gradient at −∞."""

    name = "plackett_luce_pads_at_minus_infinity"
    implements = "plackett_luce"
    claims = _claims("plackett_luce")

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s = batch.scores.masked_fill(~valid, -torch.inf)
        left = s.flip(-1).logcumsumexp(-1).flip(-1)
        return per_row(clean(left - s, valid).sum(-1), valid.sum(-1) > 1)


class PlaceByPlace(Rankings):
    name = "plackett_luce_place_by_place"
    implements = "plackett_luce"
    claims = _claims("plackett_luce")

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        s = s.masked_fill(~v, -1e30)
        places = [torch.where(v[..., k], -s[..., k:].log_softmax(-1)[..., 0], 0) for k in range(s.shape[-1])]
        return torch.stack(places).sum(0)


class PairByPair(Rankings):
    name = "pairwise_pair_by_pair"
    implements = "pairwise_of_k"
    claims = _claims("pairwise_of_k")

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        total, count = 0 * s.sum(-1), 0 * s.sum(-1)
        for i in range(s.shape[-1]):
            for j in range(i + 1, s.shape[-1]):
                total = total + torch.where(v[..., j], softplus(s[..., j] - s[..., i]), 0)
                count = count + v[..., j]
        return total / count.detach().clamp(min=1)


class ByDivergence(Targets):
    """ListNet as a divergence from the softmax of targets, plus its entropy."""

    name = "listnet_by_divergence"
    implements = "listnet"
    claims = _claims("listnet")

    def loss(self, s: Tensor, y: Tensor, v: Tensor, batch: Scores) -> Tensor:
        due, log_due, found = (
            clean(x, v)
            for x in (
                y.masked_fill(~v, -1e30).softmax(-1),
                y.masked_fill(~v, -1e30).log_softmax(-1),
                s.masked_fill(~v, -1e30).log_softmax(-1),
            )
        )
        return (due * (log_due - found)).sum(-1) - (due * log_due).sum(-1)


class Expanded(Pointwise):
    name = "regression_expanded"
    implements = "regression"
    claims = _claims("regression")

    def loss(self, s: Tensor, y: Tensor, v: Tensor, batch: Scores) -> Tensor:
        return clean((s - y) * s - (s - y) * y, v).sum(-1) / v.sum(-1).clamp(min=1)


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


CONTROLS: list[type[Component]] = [
    *(BySoftplus, ByCrossEntropy, PlainPairs, CoinFlipUncounted, Handicap, CentredByParts, SoftByResidual),
    *(RaoKupperBySums, DavidsonBySums, ByTriangle, PadsAtMinusInfinity, PlaceByPlace, PairByPair),
    *(ByDivergence, Expanded),
    *(Hinge, SquaredMargin, Smoothed, ByPlaces, SumOfPairs, Robust, TiedGroups),
]
