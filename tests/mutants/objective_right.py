"""Right components of the definitions of record that no plugin implements yet."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component, PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

from .objective_bases import Clipping, Sequence, Surrogate

__all__ = ["A2C", "RIGHT", "Cispo", "DualClip", "Grpo", "Gspo", "Sapo", "Truncated", "ppo"]

_COMMON = frozenset({"every-step-counts-once", "on-policy-gradient", "never-against-advantage", "unbiased-on-policy"})
_RATIO = _COMMON | {
    "on-policy-value",
    "zero-advantage-zero-gradient",
    "homogeneous-in-advantages",
    "depends-on-ratios-only",
    "unclipped-is-unbiased-off-policy",
}
_SCORE = _COMMON | {
    "zero-advantage-zero-gradient",
    "linear-in-advantages",
    "value-is-gradient-times-log-prob",
    "gradient-everywhere",
    "gradient-is-capped-ratio",
    "unclipped-is-unbiased-off-policy",
}


def ppo(s: Clipping, a: Tensor, x: Tensor) -> Tensor:
    """Return PPO's clipped loss."""
    return -torch.minimum(x.exp() * a, x.exp().clamp(*s.sides) * a)


class DualClip(Clipping):
    name = "dual_clip"
    implements = "ppo_dual_clip"
    claims = _RATIO | {
        "gradient-of-its-value",
        "clip-gradient-support",
        "inside-clip-is-importance-weighted",
        "beyond-clip-is-the-edge",
        "clip-infinite-is-importance-weighted",
        "bounded-where-bad",
    }
    c: float = Field(default=3.0, gt=1, allow_inf_nan=True)

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return torch.where(a < 0, torch.minimum(ppo(self, a, x), -self.c * a), ppo(self, a, x))


class Cispo(Surrogate):
    name = "cispo"
    implements = "cispo"
    claims = _SCORE
    clip_low: float | None = Field(default=None, ge=0, allow_inf_nan=True)
    clip_high: float = Field(default=4.0, ge=0, allow_inf_nan=True)

    def weight(self, x: Tensor) -> Tensor:
        """Return the bounded ratio, without gradient."""
        low = None if self.clip_low is None else 1 - self.clip_low
        return x.detach().exp().clamp(low, 1 + self.clip_high)

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return -self.weight(x) * a * clean(batch.log_probs, batch.valid)


class Truncated(PolicyObjective):
    name = "tis"
    implements = "tis"
    claims = _SCORE
    requires = frozenset({"behaviour_log_probs"})
    cap: float = Field(default=2.0, ge=1, allow_inf_nan=True)

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.behaviour_log_probs is not None
        x = clean(batch.log_probs - batch.behaviour_log_probs.detach(), batch.valid)
        return Loss(self.loss(clean(batch.advantages.detach(), batch.valid), x, batch))

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return -x.detach().exp().clamp(max=self.cap) * a * clean(batch.log_probs, batch.valid)


class Gspo(Sequence):
    name = "gspo"
    implements = "gspo"
    claims = (_RATIO - {"unclipped-is-unbiased-off-policy"}) | {
        "episode-mean-of-log-ratios",
        "one-gradient-per-episode",
        "equal-ratios-are-ppo-clip",
    }

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return self.bounded(self.over_episodes(x, batch), a)


class Sapo(Surrogate):
    name = "sapo"
    implements = "sapo"
    claims = (_RATIO - {"on-policy-value", "unclipped-is-unbiased-off-policy"}) | {
        "gradient-of-its-value",
        "saturates",
    }
    tau_pos: float = Field(default=1.0, gt=0)
    tau_neg: float = Field(default=1.05, gt=0)

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        tau = torch.where(a > 0, torch.full_like(a, self.tau_pos), self.tau_neg)
        return -4 / tau * torch.sigmoid(tau * torch.expm1(x)) * a


class A2C(PolicyObjective):
    name = "a2c"
    implements = "a2c"
    requires = frozenset({"entropy"})
    claims = _COMMON | {
        "entropy-bonus-is-linear",
        "gradient-independent-of-log-probs",
        "gradient-of-its-value",
        "zero-advantage-zero-gradient",
    }
    entropy_coef: float = Field(default=0.01)

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.entropy is not None
        a, lp, h = (clean(x, batch.valid) for x in (batch.advantages.detach(), batch.log_probs, batch.entropy))
        return Loss(self.loss(a, lp, h))

    def loss(self, a: Tensor, lp: Tensor, h: Tensor) -> Tensor:
        return -a * lp - self.entropy_coef * h


class Grpo(Clipping):
    name = "grpo"
    implements = "grpo"
    requires = frozenset({"old_log_probs", "ref_log_probs"})
    claims = _COMMON | {
        "on-policy-value",
        "depends-on-ratios-only",
        "gradient-of-its-value",
        "penalty-is-kl-to-reference",
        "penalty-never-negative",
        "pessimistic-bound",
    }
    beta: float = Field(default=0.04, ge=0)

    def penalty(self, u: Tensor, x: Tensor) -> Tensor:
        """Return k3 of the log-ratio ``u`` of reference to policy."""
        return torch.expm1(u) - u

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        assert batch.ref_log_probs is not None
        u = clean(batch.ref_log_probs.detach() - batch.log_probs, batch.valid)
        return self.total(ppo(self, a, x), self.penalty(u, x))

    def total(self, surrogate: Tensor, penalty: Tensor) -> Tensor:
        """Return the loss of its two parts."""
        return surrogate + self.beta * penalty


RIGHT: list[type[Component]] = [DualClip, Cispo, Truncated, Gspo, Sapo, A2C, Grpo]
