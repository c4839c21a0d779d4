"""Mutants of reinforce and importance_weighted."""

from __future__ import annotations

import torch

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

from .mutant import Mutant, variants
from .objective_bases import Score, Surrogate

__all__ = ["MUTANTS"]


def _counts(batch: PolicyBatch) -> torch.Tensor:
    return batch.valid.double().to(batch.log_probs.dtype)


class LiveAdvantage(PolicyObjective):
    name = "live_advantage"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-clean(batch.advantages, batch.valid) * clean(batch.log_probs, batch.valid))


class MaskedAfterwards(PolicyObjective):
    name = "masked_afterwards"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-batch.advantages.detach() * batch.log_probs * batch.valid)


class InPlace(PolicyObjective):
    name = "in_place"

    def __call__(self, batch: PolicyBatch) -> Loss:
        with torch.no_grad():
            batch.advantages.masked_fill_(~batch.valid, 0.0).add_(1)
        return Loss(-(batch.advantages.detach() - 1) * clean(batch.log_probs, batch.valid))


class WeightsByAdvantage(PolicyObjective):
    name = "weights_by_advantage"

    def __call__(self, batch: PolicyBatch) -> Loss:
        a = clean(batch.advantages.detach(), batch.valid)
        return Loss(-a * clean(batch.log_probs, batch.valid), weights=(a != 0).to(a))


class PriorNotDetached(PolicyObjective):
    name = "old_not_detached"
    requires = frozenset({"old_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        x = clean(batch.log_probs - batch.old_log_probs, batch.valid)
        return Loss(-clean(batch.advantages.detach(), batch.valid) * x.exp())


class MaskedRatio(PolicyObjective):
    name = "masked_ratio"
    requires = frozenset({"old_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        ratio = (batch.log_probs - batch.old_log_probs.detach()).exp()
        return Loss(torch.where(batch.valid, -batch.advantages.detach() * ratio, 0))


class Recomputed(PolicyObjective):
    name = "recomputed"
    requires = frozenset({"old_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        lp = clean(batch.log_probs, batch.valid)
        return Loss(-clean(batch.advantages.detach(), batch.valid) * (lp - lp.detach()).exp())


class RecomputedLive(PolicyObjective):
    name = "recomputed_live"
    requires = frozenset({"old_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        lp = clean(batch.log_probs, batch.valid)
        return Loss(-clean(batch.advantages.detach(), batch.valid) * (lp - lp).exp())


_SCORE = {
    "A20 mean log-prob times summed return": lambda _, a, lp, b: (
        -lp.sum(-1, keepdim=True) / _counts(b).sum(-1, keepdim=True).clamp(min=1) * a.sum(-1, keepdim=True) * _counts(b)
    ),
    "A19 the row's total on every step": lambda _, a, lp, b: -a.sum(-1, keepdim=True) * lp,
    "P23 overall sign": lambda _, a, lp, b: a * lp,
    "probability for log-probability": lambda _, a, lp, b: -a * lp.exp(),
    "log-probability floored": lambda _, a, lp, b: -a * lp.clamp(min=-5),
    "baseline of the batch": lambda _, a, lp, b: -(a - a.mean()) * lp,
    "discounted by position": lambda _, a, lp, b: -a * lp * 0.9 ** torch.arange(a.shape[-1]).to(a),
    "log-probability detached": lambda _, a, lp, b: -a * lp.detach() + 0 * lp,
    "good actions only": lambda _, a, lp, b: -a.clamp(min=0) * lp,
    "divided by the number of steps": lambda _, a, lp, b: -a * lp / _counts(b).sum().clamp(min=1),
    "entropy term inside": lambda _, a, lp, b: -(a - 0.1 * lp.detach()) * lp,
    "size of the advantage": lambda _, a, lp, b: -a.abs() * lp,
    "half": lambda _, a, lp, b: -0.5 * a * lp,
    "scaled by the largest advantage": lambda _, a, lp, b: -a / a.abs().amax().clamp(min=1e-8) * lp,
    "advantage clipped": lambda _, a, lp, b: -a.clamp(-1, 1) * lp,
    "weighed by its own probability": lambda _, a, lp, b: -a * lp.exp().detach() * lp,
    "a bonus for every action": lambda _, a, lp, b: -(a + 1) * lp,
    "squared": lambda _, a, lp, b: 0.5 * a * lp**2,
    "previous advantage": lambda _, a, lp, b: -a.roll(1, -1) * lp,
    "mean of the row's advantages": lambda _, a, lp, b: -a.mean(-1, keepdim=True) * lp,
}

_RATIO = {
    "ratio upside down": lambda _, a, x, b: -a * (-x).exp(),
    "P06b zero gradient": lambda _, a, x, b: -a * x.detach().exp() + 0 * x,
    "log-ratio for ratio": lambda _, a, x, b: -a * x,
    "first-order ratio": lambda _, a, x, b: -a * (1 + x),
    "P23 overall sign": lambda _, a, x, b: a * x.exp(),
    "row mean of ratios": lambda _, a, x, b: -a * x.mean(-1, keepdim=True).exp(),
    "product of ratios so far": lambda _, a, x, b: -a * x.cumsum(-1).exp(),
    "log-ratio clamped": lambda _, a, x, b: -a * x.clamp(-1, 1).exp(),
    "log-ratio clamped far out": lambda _, a, x, b: -a * x.clamp(-3, 3).exp(),
    "self-normalised": lambda _, a, x, b: -a * x.exp() / x.exp().mean().detach(),
    "ratio minus one": lambda _, a, x, b: -a * (x.exp() - 1),
    "P07 weight keeps its gradient": lambda _, a, x, b: -a * x.exp() * clean(b.log_probs, b.valid),
    "score form of other value": lambda _, a, x, b: -a * x.exp().detach() * clean(b.log_probs, b.valid),
    "probability over log-probability": lambda _, a, x, b: -a * (x + 1),
    "squared ratio": lambda _, a, x, b: -a * (2 * x).exp(),
    "square root of the ratio": lambda _, a, x, b: -a * (x / 2).exp(),
    "penalised twice": lambda _, a, x, b: -a * x.exp() + 0.5 * x**2,
    "ratio against the batch": lambda _, a, x, b: -a * (x - x.mean()).exp(),
    "never below one": lambda _, a, x, b: -a * x.exp().clamp(min=1),
}


MUTANTS: list[Mutant] = [
    *variants(Score, "loss", _SCORE, "reinforce"),
    Mutant("P09 advantage not detached", LiveAdvantage, "reinforce"),
    Mutant("N15 NaN times 0", MaskedAfterwards, "reinforce"),
    Mutant("changes its input", InPlace, "reinforce"),
    Mutant("steps without advantage not counted", WeightsByAdvantage, "reinforce"),
    *variants(Surrogate, "loss", _RATIO, "importance_weighted"),
    Mutant("old log-probabilities not detached", PriorNotDetached, "importance_weighted"),
    Mutant("N15 NaN gradient behind where", MaskedRatio, "importance_weighted"),
    Mutant("P06 old log-probabilities recomputed", Recomputed, "importance_weighted"),
    Mutant("P06b and not even detached", RecomputedLive, "importance_weighted"),
]
