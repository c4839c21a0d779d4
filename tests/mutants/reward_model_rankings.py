"""Mutants of losses on whole rankings. In their formulas s are scores, the valid ones in front, which v tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Scores, clean

from .mutant import Mutant, variants
from .reward_model_bases import Rankings, gathered, mask_of, per_row

__all__ = ["MUTANTS"]

_FAR = -1e30


def _far(s: Tensor, v: Tensor) -> Tensor:
    return s.masked_fill(~v, _FAR)


def _left(s: Tensor) -> Tensor:
    """Return log Σ_{j ≥ k} e^{s_j}."""
    return s.flip(-1).logcumsumexp(-1).flip(-1)


def _chain(s: Tensor, v: Tensor) -> Tensor:
    """Return the loss of each place."""
    s = _far(s, v)
    return clean(_left(s) - s, v)


def _backwards(s: Tensor, v: Tensor) -> Tensor:
    """Return the loss of choosing the worst first."""
    s = (-s).masked_fill(~v, _FAR)
    return clean(s.logcumsumexp(-1) - s, v).sum(-1)


def _pairs(s: Tensor, v: Tensor, diagonal: int = 1) -> Tensor:
    """Return −log σ(s_i − s_j) of the pairs above the diagonal, [*b, k, k]."""
    both = (v[..., :, None] & v[..., None, :]).triu(diagonal)
    return clean(-logsigmoid(s[..., :, None] - s[..., None, :]), both)


def _count(v: Tensor) -> Tensor:
    n = v.sum(-1)
    return (n * (n - 1) / 2).clamp(min=1)


def _best(s: Tensor, v: Tensor) -> Tensor:
    return _far(s, v).logsumexp(-1) - s[..., 0]


class PadsInNormaliser(RewardObjective):
    name = "pads_in_normaliser"

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s = clean(batch.scores, valid)  # e^0 of every pad
        return per_row(clean(_left(s) - s, valid).sum(-1), valid.sum(-1) > 1)


class NearMask(RewardObjective):
    name = "near_mask"

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s = batch.scores.masked_fill(~valid, -20.0)
        return per_row(clean(_left(s) - s, valid).sum(-1), valid.sum(-1) > 1)


class SkippedRowsCount(Rankings):
    name = "skipped_rows_count"

    def __call__(self, batch: Scores) -> Loss:
        return Loss(super().__call__(batch).values)

    def loss(self, s: Tensor, v: Tensor, batch: Scores) -> Tensor:
        return _chain(s, v).sum(-1)


class ByWidth(RewardObjective):
    name = "pairs_by_width"

    def __call__(self, batch: Scores) -> Loss:
        valid = mask_of(batch)
        s, v = gathered(batch.scores, valid), valid.sort(dim=-1, descending=True, stable=True).values
        k = s.shape[-1]
        return per_row(_pairs(s, v).sum((-2, -1)) / max(1, k * (k - 1) / 2), valid.sum(-1) > 1)


_PLACES = torch.arange(1, 65, dtype=torch.float64)

_PLACKETT_LUCE: dict[str, Any] = {
    "D22 prefix sums": lambda _, s, v, b: clean(_far(s, v).logcumsumexp(-1) - s, v).sum(-1),
    "E45 choosing the worst first": lambda _, s, v, b: _backwards(s, v),
    "E46 no index": lambda _, s, v, b: torch.lgamma(v.sum(-1) + 1.0).to(s) + 0 * s.sum(-1),
    "normaliser of all": lambda _, s, v, b: clean(_far(s, v).logsumexp(-1, keepdim=True) - s, v).sum(-1),
    "normaliser of all but the last": lambda _, s, v, b: (_chain(s, v)[..., 1:]).sum(-1),
    "first place only": lambda _, s, v, b: _chain(s, v)[..., 0],
    "mean over places": lambda _, s, v, b: _chain(s, v).sum(-1) / v.sum(-1).clamp(min=1),
    "mean over all but the last": lambda _, s, v, b: _chain(s, v).sum(-1) / (v.sum(-1) - 1).clamp(min=1),
    "all pairs": lambda _, s, v, b: _pairs(s, v).sum((-2, -1)),
    "neighbours only": lambda _, s, v, b: clean(-logsigmoid(s[..., :-1] - s[..., 1:]), v[..., 1:]).sum(-1),
    "places discounted": lambda _, s, v, b: (_chain(s, v) / (_PLACES[: s.shape[-1]] + 1).log2().to(s)).sum(-1),
    "early places twice as dear": lambda _, s, v, b: (_chain(s, v) * 0.5 ** (_PLACES[: s.shape[-1]] - 1).to(s)).sum(-1),
    "rivals without oneself": lambda _, s, v, b: clean(_left(_far(s, v))[..., 1:] - s[..., :-1], v[..., 1:]).sum(-1),
    "normaliser detached": lambda _, s, v, b: clean(_left(_far(s, v)).detach() - s, v).sum(-1),
    "order of the scores": lambda _, s, v, b: _chain(_far(s, v).sort(-1, descending=True).values, v).sum(-1),
    "exponentials added up": lambda _, s, v, b: clean(
        (clean(s, v).exp() * v).flip(-1).cumsum(-1).flip(-1).clamp(min=1e-30).log() - s, v
    ).sum(-1),
    "scores held within 10": lambda _, s, v, b: _chain(s.clamp(-10, 10), v).sum(-1),
    "sign": lambda _, s, v, b: -_chain(s, v).sum(-1),
    "scores negated": lambda _, s, v, b: _chain(-s, v).sum(-1),
    "order reversed": lambda _, s, v, b: _chain(_far(s, v).flip(-1).masked_fill(~v.flip(-1), _FAR), v.flip(-1)).sum(-1),
    "mean over the batch": lambda _, s, v, b: _chain(s, v).sum(-1).mean(-1, keepdim=True) + 0 * s.sum(-1),
    "temperature of 2": lambda _, s, v, b: _chain(s / 2, v).sum(-1),
    "first two places only": lambda _, s, v, b: _chain(s, v)[..., :2].sum(-1),
    "probability for its logarithm": lambda _, s, v, b: 1 - (-_chain(s, v).sum(-1)).exp(),
}

_PAIRWISE: dict[str, Any] = {
    "sum over pairs": lambda _, s, v, b: _pairs(s, v).sum((-2, -1)),
    "divided by the number of candidates": lambda _, s, v, b: _pairs(s, v).sum((-2, -1)) / v.sum(-1).clamp(min=1),
    "divided by ordered pairs": lambda _, s, v, b: _pairs(s, v).sum((-2, -1)) / (2 * _count(v)),
    "each with itself too": lambda _, s, v, b: _pairs(s, v, 0).sum((-2, -1)) / _count(v),
    "both orders": lambda _, s, v, b: _pairs(s, v, -99).sum((-2, -1)) / _count(v),
    "neighbours only": lambda _, s, v, b: (
        clean(-logsigmoid(s[..., :-1] - s[..., 1:]), v[..., 1:]).sum(-1) / (v.sum(-1) - 1).clamp(min=1)
    ),
    "best against the others": lambda _, s, v, b: (
        clean(-logsigmoid(s[..., :1] - s[..., 1:]), v[..., 1:]).sum(-1) / (v.sum(-1) - 1).clamp(min=1)
    ),
    "others against the worst": lambda _, s, v, b: _pairs(s, v).amax((-2, -1)),
    "the likelihood of the ranking": lambda _, s, v, b: _chain(s, v).sum(-1),
    "worse above better": lambda _, s, v, b: _pairs(-s, v).sum((-2, -1)) / _count(v),
    "sign": lambda _, s, v, b: -_pairs(s, v).sum((-2, -1)) / _count(v),
    "hinge": lambda _, s, v, b: (
        clean((1 - s[..., :, None] + s[..., None, :]).clamp(min=0), (v[..., :, None] & v[..., None, :]).triu(1)).sum(
            (-2, -1)
        )
        / _count(v)
    ),
    "D14 log of a sigmoid": lambda _, s, v, b: (
        clean(-(s[..., :, None] - s[..., None, :]).sigmoid().log(), (v[..., :, None] & v[..., None, :]).triu(1)).sum(
            (-2, -1)
        )
        / _count(v)
    ),
    "best against the mean": lambda _, s, v, b: (
        -logsigmoid(s[..., 0] - clean(s, v)[..., 1:].sum(-1) / (v.sum(-1) - 1).clamp(min=1))
    ),
}

_LISTNET_BEST: dict[str, Any] = {
    "worst for best": lambda _, s, v, b: (
        _far(s, v).logsumexp(-1) - s.gather(-1, (v.sum(-1, keepdim=True) - 1).clamp(min=0))[..., 0]
    ),
    "highest score for the best": lambda _, s, v, b: _far(s, v).logsumexp(-1) - _far(s, v).amax(-1).clamp(min=-1e9),
    "divided by the number of candidates": lambda _, s, v, b: _best(s, v) / v.sum(-1).clamp(min=1),
    "rivals only": lambda _, s, v, b: (
        _far(s, v)[..., 1:].logsumexp(-1).clamp(min=-1e9) - s[..., 0] if s.shape[-1] > 1 else 0 * s.sum(-1)
    ),
    "label smoothed": lambda _, s, v, b: (
        0.9 * _best(s, v) + 0.1 * clean(_far(s, v).logsumexp(-1, keepdim=True) - s, v).sum(-1) / v.sum(-1).clamp(min=1)
    ),
    "the whole chain": lambda _, s, v, b: _chain(s, v).sum(-1),
    "probability for its logarithm": lambda _, s, v, b: 1 - (-_best(s, v)).exp(),
    "sigmoid of each": lambda _, s, v, b: -logsigmoid(s[..., 0]) - clean(logsigmoid(-s), v)[..., 1:].sum(-1),
    "sign": lambda _, s, v, b: -_best(s, v),
    "softmax of a softmax": lambda _, s, v, b: (
        _far(_far(s, v).softmax(-1), v).logsumexp(-1) - _far(s, v).softmax(-1)[..., 0]
    ),
    "log of a softmax": lambda _, s, v, b: -_far(s, v).softmax(-1)[..., 0].log(),
    "rivals without gradient": lambda _, s, v, b: _far(s, v).logsumexp(-1).detach() - s[..., 0],
    "best detached": lambda _, s, v, b: _far(s, v).logsumexp(-1) - s[..., 0].detach(),
}

MUTANTS: list[Mutant] = [
    *variants(Rankings, "loss", _PLACKETT_LUCE, "plackett_luce"),
    Mutant("D21 pads in the normaliser", PadsInNormaliser, "plackett_luce"),
    Mutant("pads near the scores", NearMask, "plackett_luce"),
    Mutant("D20 rows without a pair count", SkippedRowsCount, "plackett_luce"),
    *variants(Rankings, "loss", _PAIRWISE, "pairwise_of_k"),
    Mutant("divided by the pairs of the widest row", ByWidth, "pairwise_of_k"),
    *variants(Rankings, "loss", _LISTNET_BEST, "listnet_best"),
]
