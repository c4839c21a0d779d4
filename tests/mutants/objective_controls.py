"""Right policy objectives in unusual form: nothing that they say of themselves may be called wrong."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component, PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

from .mutant import REGISTRY
from .objective_bases import Clipping, Score, Sequence, Surrogate

__all__ = ["CONTROLS"]

_PPO = REGISTRY.get("objective", "ppo_clip").claims
_WEIGHTED = REGISTRY.get("objective", "importance_weighted").claims
_SCORE = REGISTRY.get("objective", "reinforce").claims


class LargerLoss(Clipping):
    """−min(a, b) = max(−a, −b)."""

    name = "max_form"
    implements = "ppo_clip"
    claims = _PPO

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return torch.maximum(-x.exp() * a, -x.exp().clamp(*self.sides) * a)


class SmallerGain(LargerLoss):
    """−min(a, b), with the clip by hand."""

    name = "min_form"

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        low, high = self.sides
        ratio = x.exp()
        held = torch.where(ratio > high, high, torch.where(ratio < low, low, ratio))
        return -torch.minimum(ratio * a, held * a)


class BoundOfTheSign(LargerLoss):
    """One bound per sign of A; at the edge itself half of the gradient is left, which is as good as all of it."""

    name = "bound_of_the_sign"

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        low, high = (torch.full_like(a, side) for side in self.sides)
        return -a * torch.where(a > 0, torch.minimum(x.exp(), high), torch.maximum(x.exp(), low))


class NegativeLogProbs(LargerLoss):
    """Ratio from negative log-probabilities, as Baselines stored them."""

    name = "neglogp_form"

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        assert batch.old_log_probs is not None
        old, new = (clean(-each, batch.valid) for each in (batch.old_log_probs.detach(), batch.log_probs))
        return super().loss(a, old - new, batch)


class OtherNames(Surrogate):
    """PPO whose one parameter has another name."""

    name = "other_names"
    implements = "ppo_clip"
    claims = _PPO
    conventions = {"clip": "epsilon"}  # noqa: RUF012
    epsilon: float = Field(default=0.1, ge=0, allow_inf_nan=True)

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return torch.maximum(-x.exp() * a, -x.exp().clamp(1 - self.epsilon, 1 + self.epsilon) * a)


class ScoreRatio(Score):
    """exp(log π − sg(log π)) A has the gradient of A log π, and another value."""

    name = "score_ratio"
    claims = (_SCORE - {"linear-in-log-probs", "value-is-gradient-times-log-prob", "gradient-of-its-value"}) | {
        "on-policy-value"
    }

    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor:
        return -a * (lp - lp.detach()).exp()


class QuotientOfProbabilities(Surrogate):
    name = "quotient"
    implements = "importance_weighted"
    claims = _WEIGHTED

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        assert batch.old_log_probs is not None
        return -a * clean(batch.log_probs, batch.valid).exp() / clean(batch.old_log_probs.detach(), batch.valid).exp()


class AdvantageWeighted(Score):
    """AWR raises the probability of bad actions too, only less (Peng et al. 2019)."""

    name = "awr"
    beta: float = Field(default=1.0, gt=0)

    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor:
        return -(a / self.beta).exp().clamp(max=20) * lp


class GoodOnly(Score):
    """Self-imitation learns from good actions only (Oh et al. 2018)."""

    name = "self_imitation"
    claims = frozenset({"never-against-advantage", "zero-advantage-zero-gradient", "homogeneous-in-advantages"})

    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor:
        return -a.clamp(min=0) * lp


class Regression(Score):
    """Least squares of the log-ratio to the reference on A / β, as in A*-PO."""

    name = "regression"
    requires = frozenset({"ref_log_probs"})
    beta: float = Field(default=0.5, gt=0)

    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor:
        assert batch.ref_log_probs is not None
        return 0.5 * (self.beta * (lp - clean(batch.ref_log_probs.detach(), batch.valid)) - a) ** 2


class LowersEntropy(PolicyObjective):
    """Minimises entropy on purpose (Agarwal et al. 2025), and says so."""

    name = "entropy_minimiser"
    requires = frozenset({"entropy"})
    conventions = {"entropy_coef": -1.0}  # noqa: RUF012
    claims = frozenset({"entropy-bonus-is-linear"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.entropy is not None
        a, lp, h = (clean(x, batch.valid) for x in (batch.advantages.detach(), batch.log_probs, batch.entropy))
        return Loss(-a * lp + h)


class DropsAtRandom(PolicyObjective):
    """A random half of the steps has no gradient."""

    name = "drops_at_random"
    requires = frozenset({"uniforms"})
    claims = frozenset({"linear-in-advantages", "zero-advantage-zero-gradient"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.uniforms is not None
        a, lp = clean(batch.advantages.detach(), batch.valid), clean(batch.log_probs, batch.valid)
        return Loss(-a * lp * (clean(batch.uniforms, batch.valid) < 0.5))


class Whitened(Score):
    """Whitening inside the loss needs the whole batch, and its scope says so."""

    name = "whitened"
    scope = "batch"
    claims = frozenset({"gradient-independent-of-log-probs"})

    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor:
        count = batch.valid.sum().clamp(min=1)
        centred = clean(a - a.sum() / count, batch.valid)
        return -centred / ((centred**2).sum() / count + 1e-8).sqrt() * lp


class TokenForm(Sequence):
    """GSPO-token: the same value and, for equal advantages, the same gradient as the sequence form."""

    name = "gspo_token"
    implements = "gspo_token"

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return self.bounded(self.over_episodes(x, batch).detach() + x - x.detach(), a)


CONTROLS: list[type[Component]] = [
    *(LargerLoss, SmallerGain, BoundOfTheSign, NegativeLogProbs, OtherNames),
    *(ScoreRatio, QuotientOfProbabilities, AdvantageWeighted, GoodOnly, Regression),
    *(LowersEntropy, DropsAtRandom, Whitened, TokenForm),
]
