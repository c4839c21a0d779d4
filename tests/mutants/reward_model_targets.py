"""Mutants of losses with targets. In their formulas s are scores, y targets, the valid ones in front, which v tells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid

from rlhf_lab.components import RewardObjective
from rlhf_lab.types import Loss, Refused, Scores, clean

from .mutant import Mutant, variants
from .reward_model_bases import Pointwise, Targets, mask_of, per_row

__all__ = ["MUTANTS", "Labelled"]

_FAR = -1e30


class Labelled(Pointwise):
    """A loss of scores and labels that are probabilities."""

    def __call__(self, batch: Scores) -> Loss:
        assert batch.targets is not None
        targets = clean(batch.targets, mask_of(batch))
        if bool(((targets < 0) | (targets > 1)).any()):
            raise Refused("no probability")
        return super().__call__(batch)


class LiveTargets(RewardObjective):
    name = "live_targets"
    requires = frozenset({"targets"})

    def __call__(self, batch: Scores) -> Loss:
        assert batch.targets is not None
        valid = mask_of(batch)
        errors = clean(batch.scores - batch.targets, valid)
        return per_row(errors.square().sum(-1) / valid.sum(-1).clamp(min=1), valid.any(-1))


class MaskedAfterwards(RewardObjective):
    name = "scores_masked_afterwards"
    requires = frozenset({"targets"})

    def __call__(self, batch: Scores) -> Loss:
        assert batch.targets is not None
        valid = mask_of(batch)
        errors = (batch.scores - batch.targets.detach()).square() * valid
        return per_row(errors.sum(-1) / valid.sum(-1).clamp(min=1), valid.any(-1))


class ByWidth(RewardObjective):
    name = "targets_by_width"
    requires = frozenset({"targets"})

    def __call__(self, batch: Scores) -> Loss:
        assert batch.targets is not None
        valid = mask_of(batch)
        return per_row(clean(batch.scores - batch.targets.detach(), valid).square().mean(-1), valid.any(-1))


def _mean(x: Tensor, v: Tensor) -> Tensor:
    return clean(x, v).sum(-1) / v.sum(-1).clamp(min=1)


def _share(x: Tensor, v: Tensor) -> Tensor:
    return x.masked_fill(~v, _FAR).softmax(-1)


def _log_share(x: Tensor, v: Tensor) -> Tensor:
    return clean(x.masked_fill(~v, _FAR).log_softmax(-1), v)


_LISTNET: dict[str, Any] = {
    "scores and targets exchanged": lambda _, s, y, v, b: -clean(_share(s, v) * _log_share(y, v), v).sum(-1),
    "targets without softmax": lambda _, s, y, v, b: -clean(y * _log_share(s, v), v).sum(-1),
    "targets divided by their sum": lambda _, s, y, v, b: (
        -clean(y.abs() / clean(y.abs(), v).sum(-1, keepdim=True).clamp(min=1e-9) * _log_share(s, v), v).sum(-1)
    ),
    "entropy subtracted": lambda _, s, y, v, b: clean(_share(y, v) * (_log_share(y, v) - _log_share(s, v)), v).sum(-1),
    "mean over candidates": lambda _, s, y, v, b: -_mean(_share(y, v) * _log_share(s, v), v),
    "best target only": lambda _, s, y, v, b: (
        -clean((y.masked_fill(~v, _FAR) == y.masked_fill(~v, _FAR).amax(-1, keepdim=True)) * _log_share(s, v), v).sum(
            -1
        )
    ),
    "pads in the softmax of targets": lambda _, s, y, v, b: -clean(y.softmax(-1) * _log_share(s, v), v).sum(-1),
    "temperature of targets": lambda _, s, y, v, b: -clean(_share(y / 2, v) * _log_share(s, v), v).sum(-1),
    "log of a softmax": lambda _, s, y, v, b: -clean(_share(y, v) * _share(s, v).clamp(min=1e-10).log(), v).sum(-1),
    "sign": lambda _, s, y, v, b: clean(_share(y, v) * _log_share(s, v), v).sum(-1),
    "targets sorted": lambda _, s, y, v, b: (
        -clean(_share(y.masked_fill(~v, _FAR).sort(-1, descending=True).values, v) * _log_share(s, v), v).sum(-1)
    ),
    "sigmoids": lambda _, s, y, v, b: -clean(y.sigmoid() * logsigmoid(s), v).sum(-1),
    "squared distance of shares": lambda _, s, y, v, b: clean(_share(s, v) - _share(y, v), v).square().sum(-1),
    "the first candidate only": lambda _, s, y, v, b: -_log_share(s, v)[..., 0],
}

_REGRESSION: dict[str, Any] = {
    "half": lambda _, s, y, v, b: 0.5 * _mean((s - y).square(), v),
    "sum over candidates": lambda _, s, y, v, b: clean(s - y, v).square().sum(-1),
    "absolute error": lambda _, s, y, v, b: _mean((s - y).abs(), v),
    "Huber": lambda _, s, y, v, b: _mean(2 * huber_loss(s, y, reduction="none"), v),
    "sign": lambda _, s, y, v, b: -_mean((s - y).square(), v),
    "sum for difference": lambda _, s, y, v, b: _mean((s + y).square(), v),
    "error of the mean": lambda _, s, y, v, b: _mean(s - y, v).square(),
    "mean error removed": lambda _, s, y, v, b: _mean((s - y - _mean(s - y, v)[..., None]).square(), v),
    "target of the next one": lambda _, s, y, v, b: _mean((s - y.roll(1, -1)).square(), v),
    "score squashed": lambda _, s, y, v, b: _mean((s.sigmoid() - y).square(), v),
    "error held within 4": lambda _, s, y, v, b: _mean((s - y).clamp(-4, 4).square(), v),
    "first candidate only": lambda _, s, y, v, b: (s - y)[..., 0].square(),
    "targets of the batch": lambda _, s, y, v, b: _mean((s - y.mean(0, keepdim=True)).square(), v),
    "score pulled to 0": lambda _, s, y, v, b: _mean((s - y).square() + 0.01 * s.square(), v),
    "score detached": lambda _, s, y, v, b: _mean((s.detach() - y).square() + 0 * s, v),
}

_BCE: dict[str, Any] = {
    "label of the other class": lambda _, s, y, v, b: -_mean((1 - y) * logsigmoid(s) + y * logsigmoid(-s), v),
    "good ones only": lambda _, s, y, v, b: -_mean(y * logsigmoid(s), v),
    "label rounded": lambda _, s, y, v, b: -_mean(logsigmoid(torch.where(y < 0.5, -s, s)), v),
    "sum over candidates": lambda _, s, y, v, b: -clean(y * logsigmoid(s) + (1 - y) * logsigmoid(-s), v).sum(-1),
    "logarithms of sigmoids": lambda _, s, y, v, b: (
        -_mean(y * s.sigmoid().clamp(min=1e-12).log() + (1 - y) * (1 - s.sigmoid()).clamp(min=1e-12).log(), v)
    ),
    "sigmoid twice": lambda _, s, y, v, b: -_mean(y * logsigmoid(s.sigmoid()) + (1 - y) * logsigmoid(-s.sigmoid()), v),
    "squared distance": lambda _, s, y, v, b: _mean((s.sigmoid() - y).square(), v),
    "sign": lambda _, s, y, v, b: _mean(y * logsigmoid(s) + (1 - y) * logsigmoid(-s), v),
    "D05 both terms of one sign": lambda _, s, y, v, b: -_mean(y * logsigmoid(s) + (1 - y) * logsigmoid(s), v),
    "good ones twice as dear": lambda _, s, y, v, b: -_mean(2 * y * logsigmoid(s) + (1 - y) * logsigmoid(-s), v),
    "scores centred in the row": lambda _, s, y, v, b: (
        -_mean(y * logsigmoid(s - _mean(s, v)[..., None]) + (1 - y) * logsigmoid(_mean(s, v)[..., None] - s), v)
    ),
    "regression of the label": lambda _, s, y, v, b: _mean((s - y).square(), v),
    "probit": lambda _, s, y, v, b: -_mean(y * torch.special.log_ndtr(s) + (1 - y) * torch.special.log_ndtr(-s), v),
}

MUTANTS: list[Mutant] = [
    *variants(Targets, "loss", _LISTNET, "listnet"),
    *variants(Pointwise, "loss", _REGRESSION, "regression"),
    Mutant("target not detached", LiveTargets, "regression"),
    Mutant("N15 NaN times 0", MaskedAfterwards, "regression"),
    Mutant("divided by the width of the batch", ByWidth, "regression"),
    *variants(Labelled, "loss", _BCE, "pointwise_bce"),
]
