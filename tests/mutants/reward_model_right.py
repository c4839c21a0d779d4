"""Right reward-model losses in another form than the components that implement the same definitions of record."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

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

__all__ = ["RIGHT"]


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


RIGHT: list[type[Component]] = [
    *(BySoftplus, ByCrossEntropy, PlainPairs, CoinFlipUncounted, Handicap, CentredByParts, SoftByResidual),
    *(RaoKupperBySums, DavidsonBySums, ByTriangle, PadsAtMinusInfinity, PlaceByPlace, PairByPair),
    *(ByDivergence, Expanded),
]
