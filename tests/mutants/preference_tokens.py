"""Mutants of losses that read tokens, or divergences at them."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings

from .mutant import Mutant, variants
from .preference_bases import Given, Plain, mask_of, per_row

__all__ = ["MUTANTS", "Tailed"]


class Divergent(Plain):
    """tdpo: a loss of h and of both divergences."""

    name = "divergent"
    requires = frozenset({"ref_log_probs", "token_kl"})
    alpha: float = Field(default=0.5, ge=0)
    stop_gradient: bool = True

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        kept = torch.where(mask_of(x.batch).all(-1, keepdim=True), x.batch.token_kl, 0)
        d, e = kept.unbind(-1)
        found: Tensor = self.form(a - b, d.detach() if self.stop_gradient else d, e)  # type: ignore[attr-defined]
        return found


_TDPO: dict[str, Any] = {
    "sign of the divergences": lambda s, h, d, e: -logsigmoid(s.beta * (h + s.alpha * (e - d))),
    "divergences added": lambda s, h, d, e: -logsigmoid(s.beta * (h - s.alpha * (e + d))),
    "rejected divergence alone": lambda s, h, d, e: -logsigmoid(s.beta * (h - s.alpha * e)) + 0 * d,
    "divergences without beta": lambda s, h, d, e: -logsigmoid(s.beta * h - s.alpha * (e - d)),
    "divergence as a penalty": lambda s, h, d, e: -logsigmoid(s.beta * h) + s.alpha * s.beta * e - 0 * d,
    "alpha not read": lambda s, h, d, e: -logsigmoid(s.beta * (h - (e - d))),
    "both divergences detached": lambda s, h, d, e: -logsigmoid(s.beta * (h - s.alpha * (e.detach() - d))),
    "rejected detached in place of the chosen": lambda s, h, d, e: (
        -logsigmoid(s.beta * (h - s.alpha * ((e.detach() if s.stop_gradient else e) - d - 0 * e)))
    ),
    "D14 -log(sigmoid(x))": lambda s, h, d, e: -(s.beta * (h - s.alpha * (e - d))).sigmoid().log(),
    "stop_gradient not read": lambda s, h, d, e: -logsigmoid(s.beta * (h - s.alpha * (e - d.detach()))),
    "no divergences": lambda s, h, d, e: -logsigmoid(s.beta * h) + 0 * (d + e),
}


class Tailed(PreferenceObjective):
    """ld_dpo: a loss of sums over tokens, each with a weight."""

    name = "tailed"
    requires = frozenset({"token_log_probs", "token_ref_log_probs", "token_valid"})
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0)
    alpha: float = Field(default=0.5, ge=0, le=1)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.token_log_probs is not None and batch.token_ref_log_probs is not None
        assert batch.token_valid is not None
        counts = mask_of(batch).all(-1)
        counted = batch.token_valid & counts[..., None, None]
        ratio = torch.where(counted, batch.token_log_probs - batch.token_ref_log_probs.detach(), 0)
        lengths = counted.sum(-1, keepdim=True)  # [*b,2,1]
        a, b = (ratio * self.weight(counted, lengths)).sum(-1).unbind(-1)
        return per_row(self.end(a, b), counts)

    def weight(self, counted: Tensor, lengths: Tensor) -> Tensor:
        return torch.where(counted.cumsum(-1) <= lengths.amin(-2, keepdim=True), 1.0, self.alpha).double()

    def end(self, a: Tensor, b: Tensor) -> Tensor:
        return -logsigmoid(self.beta * (a - b))


_WEIGHT: dict[str, Any] = {
    "head for tail": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) <= lengths.amin(-2, keepdim=True), s.alpha, 1.0
    ),
    "tail beyond the longer response": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) <= lengths.amax(-2, keepdim=True), 1.0, s.alpha
    ),
    "one token too early": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) < lengths.amin(-2, keepdim=True), 1.0, s.alpha
    ),
    "places for tokens": lambda s, counted, lengths: torch.where(
        torch.arange(counted.shape[-1]) < lengths.amin(-2, keepdim=True), 1.0, s.alpha
    ),
    "shortest of the batch": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) <= lengths[counted.any(-1)].min() if bool(counted.any()) else counted, 1.0, s.alpha
    ),
    "weight decays along the tail": lambda s, counted, lengths: (
        s.alpha ** (counted.cumsum(-1) - lengths.amin(-2, keepdim=True)).clamp(min=0).double()
    ),
    "alpha not read": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) <= lengths.amin(-2, keepdim=True), 1.0, 0.5
    ),
    "all tokens alike": lambda s, counted, lengths: torch.ones_like(counted, dtype=torch.float64),
    "tokens of the chosen one only": lambda s, counted, lengths: torch.where(
        counted.cumsum(-1) <= lengths[..., :1, :], 1.0, s.alpha
    ),
}

_END: dict[str, Any] = {
    "D14 -log(sigmoid(x))": lambda s, a, b: -(s.beta * (a - b)).sigmoid().log(),
    "beta not read": lambda s, a, b: -logsigmoid(a - b),
    "D11 swapped": lambda s, a, b: -logsigmoid(s.beta * (b - a)),
    "drawn back from a wide margin": lambda s, a, b: -logsigmoid(s.beta * (a - b)) + s.beta * (a - b).square() / 16,
}


class TokensMaskedAfterwards(Tailed):
    name = "tokens_masked_afterwards"

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.token_log_probs is not None and batch.token_ref_log_probs is not None
        assert batch.token_valid is not None
        counts = mask_of(batch).all(-1)
        counted = batch.token_valid & counts[..., None, None]
        ratio = (batch.token_log_probs - batch.token_ref_log_probs.detach()) * counted
        a, b = (ratio * self.weight(counted, counted.sum(-1, keepdim=True))).sum(-1).unbind(-1)
        return per_row(self.end(a, b), counts)


class TokenMaskIgnored(Tailed):
    name = "token_mask_ignored"

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.token_log_probs is not None and batch.token_ref_log_probs is not None
        assert batch.token_valid is not None
        counts = mask_of(batch).all(-1)
        counted = batch.token_valid & counts[..., None, None]
        both = counts[..., None, None].expand_as(counted)
        ratio = torch.where(both, batch.token_log_probs - batch.token_ref_log_probs.detach(), 0)
        a, b = (ratio * self.weight(counted, counted.sum(-1, keepdim=True))).sum(-1).unbind(-1)
        return per_row(self.end(a, b), counts)


MUTANTS: list[Mutant] = [
    *variants(Divergent, "form", _TDPO, "tdpo"),
    *variants(Tailed, "weight", _WEIGHT, "ld_dpo"),
    *variants(Tailed, "end", _END, "ld_dpo"),
    Mutant("N15 NaN times 0 at tokens", TokensMaskedAfterwards, "ld_dpo"),
    Mutant("tokens that do not count", TokenMaskIgnored, "ld_dpo"),
]
