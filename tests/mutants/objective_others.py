"""Mutants of the definitions of record that no plugin implements yet."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.types import PolicyBatch, clean

from .mutant import Mutant, variants
from .objective_right import A2C, Cispo, DualClip, Grpo, Gspo, Sapo, Truncated, ppo

__all__ = ["MUTANTS"]


def _own(batch: PolicyBatch) -> Tensor:
    return clean(batch.log_probs, batch.valid)


_DUAL = {
    "P03 for every sign": lambda s, a, x, b: torch.minimum(ppo(s, a, x), -s.c * a),
    "for good actions": lambda s, a, x, b: torch.where(a > 0, torch.minimum(ppo(s, a, x), -s.c * a), ppo(s, a, x)),
    "maximum for minimum": lambda s, a, x, b: torch.where(a < 0, torch.maximum(ppo(s, a, x), -s.c * a), ppo(s, a, x)),
    "bound 1 + c": lambda s, a, x, b: torch.where(a < 0, torch.minimum(ppo(s, a, x), -(1 + s.c) * a), ppo(s, a, x)),
    "bound of the other sign": lambda s, a, x, b: torch.where(
        a < 0, torch.minimum(ppo(s, a, x), s.c * a), ppo(s, a, x)
    ),
    "bound without A": lambda s, a, x, b: torch.where(a < 0, ppo(s, a, x).clamp(max=s.c), ppo(s, a, x)),
    "plain PPO": lambda s, a, x, b: ppo(s, a, x),
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


MUTANTS: list[Mutant] = [
    *variants(DualClip, "loss", _DUAL),
    *variants(Cispo, "loss", _CISPO),
    *variants(Truncated, "loss", _TIS),
    *variants(Gspo, "loss", _GSPO),
    *variants(Sapo, "loss", _SAPO),
    *variants(A2C, "loss", _A2C),
    *variants(Grpo, "penalty", _GRPO_PENALTY),
    *variants(Grpo, "total", {"P11 penalty sign": lambda s, surrogate, penalty: surrogate - s.beta * penalty}),
]
