"""Right components of the definitions that no plugin implements yet, and their mutants."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component, PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

from .mutant import Mutant
from .objective_bases import Clipping, Sequence, Surrogate, surrogate

__all__ = ["MUTANTS", "RIGHT"]

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


def _ppo(s: Clipping, a: Tensor, x: Tensor) -> Tensor:
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
    clip: float = Field(default=0.2, ge=0, allow_inf_nan=True)

    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor:
        return torch.where(a < 0, torch.minimum(_ppo(self, a, x), -self.c * a), _ppo(self, a, x))


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
        return self.total(_ppo(self, a, x), self.penalty(u, x))

    def total(self, surrogate: Tensor, penalty: Tensor) -> Tensor:
        """Return the loss of its two parts."""
        return surrogate + self.beta * penalty


RIGHT: list[type[Component]] = [DualClip, Cispo, Truncated, Gspo, Sapo, A2C, Grpo]


def _own(batch: PolicyBatch) -> Tensor:
    return clean(batch.log_probs, batch.valid)


_DUAL = {
    "P03 for every sign": lambda s, a, x, b: torch.minimum(_ppo(s, a, x), -s.c * a),
    "for good actions": lambda s, a, x, b: torch.where(a > 0, torch.minimum(_ppo(s, a, x), -s.c * a), _ppo(s, a, x)),
    "maximum for minimum": lambda s, a, x, b: torch.where(a < 0, torch.maximum(_ppo(s, a, x), -s.c * a), _ppo(s, a, x)),
    "bound 1 + c": lambda s, a, x, b: torch.where(a < 0, torch.minimum(_ppo(s, a, x), -(1 + s.c) * a), _ppo(s, a, x)),
    "bound of the other sign": lambda s, a, x, b: torch.where(
        a < 0, torch.minimum(_ppo(s, a, x), s.c * a), _ppo(s, a, x)
    ),
    "bound without A": lambda s, a, x, b: torch.where(a < 0, _ppo(s, a, x).clamp(max=s.c), _ppo(s, a, x)),
    "plain PPO": lambda s, a, x, b: _ppo(s, a, x),
}

_CISPO = {
    "P07 weight keeps its gradient": lambda s, a, x, b: -x.exp().clamp(max=1 + s.clip_high) * a * _own(b),
    "P08 without log-prob": lambda s, a, x, b: -x.exp().clamp(max=1 + s.clip_high) * a,
    "capped steps dropped": lambda s, a, x, b: -(x.exp() <= 1 + s.clip_high).to(x) * s.weight(x) * a * _own(b),
    "cap clip_high": lambda s, a, x, b: -x.detach().exp().clamp(max=max(s.clip_high, 1.0)) * a * _own(b),
    "both sides": lambda s, a, x, b: -x.detach().exp().clamp(0.8, 1 + s.clip_high) * a * _own(b),
    "not capped": lambda s, a, x, b: -x.detach().exp() * a * _own(b),
    "capped where good only": lambda s, a, x, b: -torch.where(a > 0, s.weight(x), x.detach().exp()) * a * _own(b),
    "no weight": lambda s, a, x, b: -a * _own(b),
    "floor for cap": lambda s, a, x, b: -x.detach().exp().clamp(min=1 + s.clip_high) * a * _own(b),
}

_TIS = {
    "P07 weight keeps its gradient": lambda s, a, x, b: -x.exp().clamp(max=s.cap) * a * _own(b),
    "P08 without log-prob": lambda s, a, x, b: -x.exp().clamp(max=s.cap) * a,
    "upside down": lambda s, a, x, b: -(-x).detach().exp().clamp(max=s.cap) * a * _own(b),
    "masked above the cap": lambda s, a, x, b: -torch.where(x.exp() <= s.cap, x.detach().exp(), 0) * a * _own(b),
    "log-ratio capped": lambda s, a, x, b: -x.detach().clamp(max=s.cap).exp() * a * _own(b),
    "row's product": lambda s, a, x, b: -x.detach().sum(-1, keepdim=True).exp().clamp(max=s.cap) * a * _own(b),
    "not capped": lambda s, a, x, b: -x.detach().exp() * a * _own(b),
}

_GSPO = {
    "P14 sum for mean": lambda s, a, x, b: s.bounded((s.together(b).to(x) @ x[..., None])[..., 0], a),
    "P14b each step divided": lambda s, a, x, b: s.bounded(x / s.together(b).sum(-1).clamp(min=1), a),
    "P14c mean over the padded row": lambda s, a, x, b: s.bounded(x.mean(-1, keepdim=True).expand(x.shape), a),
    "P14d loss divided by the length": lambda s, a, x, b: (
        s.bounded(s.over_episodes(x, b), a) / s.together(b).sum(-1).clamp(min=1)
    ),
    "ratio of each step": lambda s, a, x, b: s.bounded(x, a),
    "arithmetic mean of ratios": lambda s, a, x, b: s.bounded(s.over_episodes(x.exp(), b).clamp(min=1e-9).log(), a),
    "sequence ratio detached": lambda s, a, x, b: s.bounded(s.over_episodes(x, b).detach(), a) + 0 * x,
    "no episode ends": lambda s, a, x, b: s.bounded(
        (x * b.valid).sum(-1, keepdim=True) / b.valid.sum(-1, keepdim=True).clamp(min=1) * b.valid, a
    ),
    "clipped before the mean": lambda s, a, x, b: s.bounded(s.over_episodes(x.clamp(-0.3, 0.3), b), a),
    "sign": lambda s, a, x, b: -s.bounded(s.over_episodes(x, b), a),
    "unclipped": lambda s, a, x, b: -s.over_episodes(x, b).exp() * a,
}

_SAPO = {
    "temperatures swapped": lambda s, a, x, b: Sapo(tau_pos=s.tau_neg, tau_neg=s.tau_pos).loss(a, x, b),
    "one temperature": lambda s, a, x, b: Sapo(tau_pos=s.tau_pos, tau_neg=s.tau_pos).loss(a, x, b) + 0 * s.tau_neg,
    "without 4 / tau": lambda s, a, x, b: -torch.sigmoid(torch.expm1(x)) * a,
    "around ratio 0": lambda s, a, x, b: -4 / s.tau_pos * torch.sigmoid(s.tau_pos * x.exp()) * a,
    "of the log-ratio": lambda s, a, x, b: Sapo.loss(s, a, x.clamp(min=-0.99).log1p(), b),
    "sign": lambda s, a, x, b: -Sapo.loss(s, a, x, b),
}

_A2C = {
    "P10 entropy sign": lambda s, a, lp, h: -a * lp + s.entropy_coef * h,
    "entropy detached": lambda s, a, lp, h: -a * lp - s.entropy_coef * h.detach(),
    "coefficient squared": lambda s, a, lp, h: -a * lp - s.entropy_coef**2 * h,
    "entropy weighed by A": lambda s, a, lp, h: -a * lp - s.entropy_coef * a * h,
    "P23 overall sign": lambda s, a, lp, h: a * lp - s.entropy_coef * h,
    "sampled entropy": lambda s, a, lp, h: -a * lp + s.entropy_coef * (lp - h.detach()),
}

_GRPO_PENALTY = {
    "K01 arguments swapped": lambda _, u, x: torch.expm1(-u) + u,
    "k1": lambda _, u, x: -u,
    "k2": lambda _, u, x: 0.5 * u**2,
    "penalty detached": lambda _, u, x: (torch.expm1(u) - u).detach(),
    "against the old policy": lambda _, u, x: torch.expm1(x) - x,
    "without the 1": lambda _, u, x: u.exp() - u,
}


def _parts(base: type[Component], part: str, table: dict[str, object]) -> list[Mutant]:
    made = []
    for n, (bug, function) in enumerate(table.items()):
        name = f"{base.name}_{part}_{n}"
        component = type(name, (base,), {"__module__": __name__, "name": name, part: function})
        made.append(Mutant(bug, component, base))
    return made


MUTANTS: list[Mutant] = [
    *_parts(DualClip, "loss", _DUAL),
    *_parts(Cispo, "loss", _CISPO),
    *_parts(Truncated, "loss", _TIS),
    *_parts(Gspo, "loss", _GSPO),
    *_parts(Sapo, "loss", _SAPO),
    *_parts(A2C, "loss", _A2C),
    *_parts(Grpo, "penalty", _GRPO_PENALTY),
    *_parts(Grpo, "total", {"P11 penalty sign": lambda s, surrogate, penalty: surrogate - s.beta * penalty}),
]
