"""Right preference losses that may not be called wrong: records in another form, and losses of other definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, relu, softplus

from rlhf_lab.components import Component, PreferenceObjective
from rlhf_lab.types import Loss, Rankings, Refused, clean

from .mutant import REGISTRY
from .preference_bases import (
    Given,
    Labelled,
    Lasting,
    Normalised,
    Odds,
    Plain,
    Smoothed,
    Soft,
    Sure,
    mask_of,
    per_row,
)

__all__ = ["CONTROLS"]


def _claims(name: str) -> frozenset[str]:
    return REGISTRY.get("preference", name).claims


class ByCrossEntropy(Plain):
    name = "dpo_by_cross_entropy"
    implements = "dpo"
    claims = _claims("dpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -torch.stack([self.beta * a, self.beta * b], dim=-1).log_softmax(-1)[..., 0]


class PromptCounted(Plain):
    """Takes the prompt's log-probability into both sums, which cancels in a difference (a bug report, closed)."""

    name = "dpo_with_prompt"
    implements = "dpo"
    claims = _claims("dpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        policy, reference = 0.75 * torch.ones_like(a), -0.5 * torch.ones_like(a)  # of the prompt
        chosen = x.w + policy - (x.w0 + reference)
        rejected = x.r + policy - (x.r0 + reference)
        return -logsigmoid(self.beta * (chosen - rejected))


class PlainPairs(PreferenceObjective):
    """Takes two responses, both there, and nothing else."""

    name = "dpo_of_plain_pairs"
    implements = "dpo"
    claims = _claims("dpo")
    requires = frozenset({"ref_log_probs"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        if not bool(mask_of(batch).all()):
            raise Refused("a pair has two responses")
        assert batch.ref_log_probs is not None
        margin = (batch.log_probs - batch.ref_log_probs.detach()) @ torch.tensor([1.0, -1.0]).to(batch.log_probs)
        return Loss(-logsigmoid(self.beta * margin))


class CoinFlipUncounted(Plain):
    """Has log 2 where a response is missing, with weight 0."""

    name = "dpo_of_coin_flips"
    implements = "dpo"
    claims = _claims("dpo")

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert loss.weights is not None
        return Loss(loss.values + math.log(2) * (loss.weights == 0), loss.weights)

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -logsigmoid(self.beta * (a - b))


class SmoothedByMargin(Smoothed):
    name = "cdpo_by_margin"
    implements = "cdpo"
    claims = _claims("cdpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        margin = self.beta * (a - b)
        return -logsigmoid(margin) + self.label_smoothing * margin


class RobustByMargin(Smoothed):
    name = "robust_dpo_by_margin"
    implements = "robust_dpo"
    claims = _claims("robust_dpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        margin, e = self.beta * (a - b), self.label_smoothing
        return -logsigmoid(margin) - e / (1 - 2 * e) * margin


class QuadraticByMean(Soft):
    """ipo as the mean over both labels, less what does not depend on the policy."""

    name = "ipo_by_labels"
    implements = "ipo"
    claims = _claims("ipo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        p, t = self.chance(x), 0.5 / self.beta
        both = p * (a - b - t).square() + (1 - p) * (a - b + t).square()
        return both - 4 * t**2 * p * (1 - p)


class HingeByMax(Plain):
    name = "hinge_by_max"
    implements = "hinge"
    claims = _claims("hinge")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        lacking = 1 - self.beta * (a - b)
        return torch.where(lacking > 0, lacking, 0)


class ReverseByEntropy(Sure):
    """exo as a cross-entropy less an entropy."""

    name = "exo_by_entropy"
    implements = "exo"
    claims = _claims("exo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        z, e = self.beta * (a - b), self.label_smoothing
        q = z.sigmoid()
        entropy = softplus(-z.abs(), threshold=100) + z.abs() * (-z.abs()).sigmoid()
        return -q * math.log(1 - e) - (1 - q) * math.log(e) - entropy


class NoiseByCrossEntropy(Plain):
    name = "nca_by_cross_entropy"
    implements = "nca"
    claims = _claims("nca")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        data, noise = torch.ones_like(a), torch.zeros_like(a)
        p, q = self.beta * a, self.beta * b
        found = binary_cross_entropy_with_logits(p, data, reduction="none")
        found = found + 0.5 * binary_cross_entropy_with_logits(p, noise, reduction="none")
        return found + 0.5 * binary_cross_entropy_with_logits(q, noise, reduction="none")


class MeansFirst(Lasting):
    """dpo_norm with means of policy and reference each."""

    name = "dpo_norm_by_means"
    implements = "dpo_norm"
    claims = _claims("dpo_norm")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        chosen, rejected = x.w / x.n - x.w0 / x.n, x.r / x.m - x.r0 / x.m
        return -logsigmoid(self.beta * chosen - self.beta * rejected)


class SimpleByLogits(Normalised):
    name = "simpo_by_logits"
    implements = "simpo"
    claims = _claims("simpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        rewards = torch.stack([self.beta * x.w / x.n - self.gamma, self.beta * x.r / x.m], dim=-1)
        return rewards.logsumexp(-1) - rewards[..., 0]


class OddsByBranches(Odds):
    """orpo with log(1 − p) in two forms, each where it is exact."""

    name = "orpo_by_branches"
    implements = "orpo"
    claims = _claims("orpo")

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        w, r = x.w / x.n, x.r / x.m
        return -w - self.lam * logsigmoid(self._odds(w) - self._odds(r))

    @staticmethod
    def _odds(x: Tensor) -> Tensor:
        x = x.clamp(max=-1e-12)
        near, far = x.clamp(min=-math.log(2)), x.clamp(max=-math.log(2))
        return x - torch.where(x > -math.log(2), torch.log(-torch.expm1(near)), torch.log1p(-far.exp()))


class ValueBySign(Labelled):
    name = "kto_by_sign"
    implements = "kto"
    claims = _claims("kto")

    def loss(self, a: Tensor, d: Tensor, z: Tensor) -> Tensor:
        sign, weight = torch.where(d, 1.0, -1.0), torch.where(d, self.lam_d, self.lam_u)
        return weight.to(a) * (1 - torch.sigmoid(sign.to(a) * self.beta * (a - z)))


class BestByGather(PreferenceObjective):
    name = "sft_by_gather"
    implements = "sft"
    claims = _claims("sft")
    per_token: bool = False

    def needs(self) -> frozenset[str]:
        return frozenset({"lengths"}) if self.per_token else frozenset()

    def __call__(self, batch: Rankings) -> Loss:
        valid = mask_of(batch)
        at = valid.int().argmax(-1, keepdim=True)
        found = clean(batch.log_probs, valid).gather(-1, at)[..., 0]
        if self.per_token:
            assert batch.lengths is not None
            found = found / batch.lengths.gather(-1, at)[..., 0].clamp(min=1)
        return Loss(-found, weights=valid.any(-1).to(found))


class RejectedOnly(Plain):
    """Negative preference optimisation: only the rejected response is pushed."""

    name = "npo"
    claims = frozenset({"depends-on-log-ratios-only", "non-negative", "convex-in-log-probs"})

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -2 / self.beta * logsigmoid(-self.beta * b) + 0 * a


class Exponential(Plain):
    """Generalised preference optimisation with an exponential, held where it would overflow."""

    name = "gpo_exponential"
    claims = frozenset({"depends-on-the-margin-only", "chosen-up-rejected-down"})

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        margin = self.beta * (a - b)
        return torch.where(margin < -20, math.e**20 * (-19 - margin), (-margin.clamp(min=-20)).exp())


class WeighedByPolicy(Plain):
    """Weighs pairs by how probable the policy finds them, without gradient."""

    name = "weighted_dpo"
    requires = frozenset({"ref_log_probs", "lengths"})

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        weight = (x.w / x.n + x.r / x.m).detach().exp()
        return -weight * logsigmoid(self.beta * (a - b))


class Regression(PreferenceObjective):
    """Draws implicit rewards to given ones; the order of responses has no meaning."""

    name = "regression_to_targets"
    requires = frozenset({"ref_log_probs", "targets"})
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None and batch.targets is not None
        valid = mask_of(batch)
        off = clean(self.beta * (batch.log_probs - batch.ref_log_probs.detach()) - batch.targets.detach(), valid)
        count = valid.sum(-1)
        return Loss(off.square().sum(-1) / count.clamp(min=1), count.to(off))


class DynamicBeta(Plain):
    """beta-DPO's idea: beta follows the mean margin of the batch."""

    name = "dynamic_beta"
    scope = "batch"
    alpha: float = Field(default=0.6, ge=0)

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        counts = mask_of(x.batch).all(-1).to(a)
        mean = ((a - b) * counts).sum() / counts.sum().clamp(min=1)
        beta = self.beta * (1 + self.alpha * mean.detach().clamp(-1, 1))
        return -logsigmoid(beta * (a - b))


class MovingShift(Plain):
    """bco with a shift that follows the data: a state."""

    name = "moving_shift"
    claims = frozenset({"at-least-dpo", "chosen-up-rejected-down"})

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        shift = (self.initial_state() if x.batch.state is None else x.batch.state)["shift"].to(a)
        shift = shift.reshape(*shift.shape, *[1] * (a.ndim - shift.ndim))
        return -logsigmoid(self.beta * a - shift) - logsigmoid(shift - self.beta * b)

    def initial_state(self) -> dict[str, Tensor]:
        return {"shift": torch.tensor(0.25, dtype=torch.float64)}

    def next_state(self, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"shift": 0.9 * state["shift"] + 0.1 * metrics["reward"]}


class RandomPairs(Plain):
    """Leaves out half of the pairs at random."""

    name = "random_pairs"
    requires = frozenset({"ref_log_probs", "uniforms"})

    def __call__(self, batch: Rankings) -> Loss:
        loss = super().__call__(batch)
        assert batch.uniforms is not None and loss.weights is not None
        return Loss(loss.values, loss.weights * (batch.uniforms < 0.5))

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -logsigmoid(self.beta * (a - b))


class TruncatedQuadratic(Plain):
    name = "gpo_truncated_quadratic"
    claims = frozenset({"non-negative", "depends-on-the-margin-only", "beta-is-a-unit", "convex-in-log-probs"})

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return relu(1 - self.beta * (a - b)).square()


class Listwise(PreferenceObjective):
    """A ranking by differences to the next one: a chain of pairs."""

    name = "chain_of_pairs"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset({"depends-on-log-ratios-only", "depends-on-the-margin-only", "log-two-at-the-reference"})
    beta: float = Field(default=0.1, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None
        valid = mask_of(batch)
        order = (~valid).int().argsort(dim=-1, stable=True)  # those that count in front
        ratio = clean(batch.log_probs - batch.ref_log_probs.detach(), valid).gather(-1, order)
        both = torch.arange(1, ratio.shape[-1]) < valid.sum(-1, keepdim=True)
        links = -logsigmoid(self.beta * (ratio[..., :-1] - ratio[..., 1:]))
        return per_row(clean(links, both).sum(-1), valid.sum(-1) > 1)


CONTROLS: list[type[Component]] = [
    *(ByCrossEntropy, PromptCounted, PlainPairs, CoinFlipUncounted, SmoothedByMargin, RobustByMargin),
    *(QuadraticByMean, HingeByMax, ReverseByEntropy, NoiseByCrossEntropy, MeansFirst, SimpleByLogits),
    *(OddsByBranches, ValueBySign, BestByGather, RejectedOnly, Exponential, WeighedByPolicy, Regression),
    *(DynamicBeta, MovingShift, RandomPairs, TruncatedQuadratic, Listwise),
]
