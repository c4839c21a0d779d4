"""Mutants of losses without a reference, of supervised learning, and of losses on labelled responses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlhf_lab.types import Loss, Rankings, clean
from rlhf_lab_preference import DPO

from .mutant import Mutant, variants
from .preference_bases import Hinged, Labelled, Normalised, Odds, Scaled, Uniform, mask_of

__all__ = ["MUTANTS"]

_SIMPO: dict[str, Any] = {
    "sums for means": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r) - s.gamma),
    "sign of the margin": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r / x.m) + s.gamma),
    "margin times beta": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r / x.m - s.gamma)),
    "margin not read": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r / x.m)),
    "lengths swapped": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.m - x.r / x.n) - s.gamma),
    "difference over all tokens": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r) / (x.n + x.m) - s.gamma),
    "D01 prompt tokens counted": lambda s, a, b, x: (
        -logsigmoid(s.beta * ((x.w - 2) / (x.n + 4) - (x.r - 2) / (x.m + 4)) - s.gamma)
    ),
    "one token too few": lambda s, a, b, x: (
        -logsigmoid(s.beta * (x.w / (x.n - 1).clamp(min=1) - x.r / (x.m - 1).clamp(min=1)) - s.gamma)
    ),
    "D11 swapped": lambda s, a, b, x: -logsigmoid(s.beta * (x.r / x.m - x.w / x.n) - s.gamma),
    "D14 -log(sigmoid(x))": lambda s, a, b, x: -(s.beta * (x.w / x.n - x.r / x.m) - s.gamma).sigmoid().log(),
    "overall sign": lambda s, a, b, x: logsigmoid(s.beta * (x.w / x.n - x.r / x.m) - s.gamma),
    "rejected detached": lambda s, a, b, x: -logsigmoid(s.beta * (x.w / x.n - x.r.detach() / x.m) - s.gamma),
    "hinge": lambda s, a, b, x: relu(s.gamma - s.beta * (x.w / x.n - x.r / x.m)),
    "D02 length of the batch": lambda s, a, b, x: (
        -logsigmoid(s.beta * (x.w - x.r) / torch.maximum(x.n, x.m).amax(-1, keepdim=True) - s.gamma)
    ),
}

_ORPO: dict[str, Any] = {
    "D07 sign of the likelihood": lambda s, w, r: w - s.lam * logsigmoid(s.log_odds(w) - s.log_odds(r)),
    "sign of the odds": lambda s, w, r: -w + s.lam * logsigmoid(s.log_odds(w) - s.log_odds(r)),
    "D11 odds swapped": lambda s, w, r: -w - s.lam * logsigmoid(s.log_odds(r) - s.log_odds(w)),
    "probabilities for odds": lambda s, w, r: -w - s.lam * logsigmoid(w - r),
    "odds without their logarithm": lambda s, w, r: -w - s.lam * logsigmoid(s.log_odds(w).exp() - s.log_odds(r).exp()),
    "D14 1 - p by subtraction": lambda s, w, r: -w - s.lam * logsigmoid(_naive(w) - _naive(r)),
    "odds of the other": lambda s, w, r: -w - s.lam * logsigmoid(w + s.log_odds(w) - r - s.log_odds(r)),
    "likelihood of both": lambda s, w, r: -w - r - s.lam * logsigmoid(s.log_odds(w) - s.log_odds(r)),
    "weight on the likelihood": lambda s, w, r: -s.lam * w - logsigmoid(s.log_odds(w) - s.log_odds(r)),
    "odds detached": lambda s, w, r: -w - s.lam * logsigmoid(s.log_odds(w) - s.log_odds(r).detach()),
    "log-odds in place of their sigmoid": lambda s, w, r: -w - s.lam * (s.log_odds(w) - s.log_odds(r)),
    "no likelihood": lambda s, w, r: -s.lam * logsigmoid(s.log_odds(w) - s.log_odds(r)),
    "1 + p": lambda s, w, r: -w - s.lam * logsigmoid(w - w.exp().log1p() - r + r.exp().log1p()),
}


def _naive(x: Tensor) -> Tensor:
    return x - (1 - x.exp() + 1e-12).log()


class _OddsOfMeans(Odds):
    name = "odds_of_means"

    def loss(self, a: Tensor, b: Tensor, x: Any) -> Tensor:
        found: Tensor = self.form(x.w / x.n, x.r / x.m)  # type: ignore[attr-defined]
        return found


_ORPO_BY_LENGTH: dict[str, Any] = {
    "D07b divided by length twice": lambda s, a, b, x: (
        -x.w / x.n**2 - s.lam * logsigmoid(s.log_odds(x.w / x.n**2) - s.log_odds(x.r / x.m**2))
    ),
    "D07b likelihood divided twice": lambda s, a, b, x: (
        -x.w / x.n**2 - s.lam * logsigmoid(s.log_odds(x.w / x.n) - s.log_odds(x.r / x.m))
    ),
    "sums in the odds": lambda s, a, b, x: -x.w / x.n - s.lam * logsigmoid(s.log_odds(x.w) - s.log_odds(x.r)),
    "sum in the likelihood": lambda s, a, b, x: (
        -x.w - s.lam * logsigmoid(s.log_odds(x.w / x.n) - s.log_odds(x.r / x.m))
    ),
}

_CPO: dict[str, Any] = {
    "sign of the likelihood": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) + s.lam * x.w,
    "likelihood of the rejected": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) - s.lam * x.r,
    "likelihood of both": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) - s.lam * (x.w + x.r),
    "beta on the likelihood too": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) - s.beta * s.lam * x.w,
    "weight not read": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) - x.w,
    "no likelihood": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) + 0 * s.lam,
    "beta not read": lambda s, a, b, x: -logsigmoid(x.w - x.r) - s.lam * x.w,
    "weight on the preference": lambda s, a, b, x: -s.lam * logsigmoid(s.beta * (x.w - x.r)) - x.w,
    "D14 log(1 + exp(-x))": lambda s, a, b, x: (1 + (-s.beta * (x.w - x.r)).exp()).log() - s.lam * x.w,
    "likelihood detached": lambda s, a, b, x: -logsigmoid(s.beta * (x.w - x.r)) - s.lam * x.w.detach(),
}

_SLIC: dict[str, Any] = {
    "sign of the difference": lambda s, a, b, x: relu(s.delta + x.w - x.r) - s.lam * x.w,
    "no hinge": lambda s, a, b, x: s.delta - x.w + x.r - s.lam * x.w,
    "no margin": lambda s, a, b, x: relu(x.r - x.w) - s.lam * x.w + 0 * s.delta,
    "sign of the likelihood": lambda s, a, b, x: relu(s.delta - x.w + x.r) + s.lam * x.w,
    "likelihood of the rejected": lambda s, a, b, x: relu(s.delta - x.w + x.r) - s.lam * x.r,
    "likelihood inside of the hinge": lambda s, a, b, x: relu(s.delta - x.w + x.r - s.lam * x.w),
    "square": lambda s, a, b, x: relu(s.delta - x.w + x.r).square() - s.lam * x.w,
    "margin as a factor": lambda s, a, b, x: s.delta * relu(1 - x.w + x.r) - s.lam * x.w,
    "logistic": lambda s, a, b, x: -logsigmoid(x.w - x.r - s.delta) - s.lam * x.w,
    "likelihood only where the hinge acts": lambda s, a, b, x: (
        relu(s.delta - x.w + x.r) - s.lam * x.w * (s.delta - x.w + x.r > 0)
    ),
    "weight not read": lambda s, a, b, x: relu(s.delta - x.w + x.r) - 0.1 * x.w,
}

_KTO: dict[str, Any] = {
    "labels swapped": lambda s, a, d, z: _kto(s, a, ~d, z),
    "reference point forgotten": lambda s, a, d, z: _kto(s, a, d, 0 * z),
    "sign of the reference point": lambda s, a, d, z: _kto(s, a, d, -z),
    "reference point for the desirable only": lambda s, a, d, z: _kto(s, a, d, torch.where(d, z, 0)),
    "weights swapped": lambda s, a, d, z: torch.where(
        d, s.lam_u * (-s.beta * (a - z)).sigmoid(), s.lam_d * (s.beta * (a - z)).sigmoid()
    ),
    "weights not read": lambda s, a, d, z: torch.where(d, (-s.beta * (a - z)).sigmoid(), (s.beta * (a - z)).sigmoid()),
    "value for loss": lambda s, a, d, z: torch.where(
        d, s.lam_d * (s.beta * (a - z)).sigmoid(), s.lam_u * (-s.beta * (a - z)).sigmoid()
    ),
    "logarithms": lambda s, a, d, z: torch.where(
        d, -s.lam_d * logsigmoid(s.beta * (a - z)), -s.lam_u * logsigmoid(-s.beta * (a - z))
    ),
    "constant forgotten": lambda s, a, d, z: torch.where(
        d, -s.lam_d * (s.beta * (a - z)).sigmoid(), -s.lam_u * (-s.beta * (a - z)).sigmoid()
    ),
    "beta on the ratio only": lambda s, a, d, z: torch.where(
        d, s.lam_d * (z - s.beta * a).sigmoid(), s.lam_u * (s.beta * a - z).sigmoid()
    ),
    "undesirable not learned": lambda s, a, d, z: torch.where(d, s.lam_d * (-s.beta * (a - z)).sigmoid(), s.lam_u),
    "beta not read": lambda s, a, d, z: torch.where(d, s.lam_d * (z - a).sigmoid(), s.lam_u * (a - z).sigmoid()),
    "weight inside": lambda s, a, d, z: torch.where(
        d, (-s.lam_d * s.beta * (a - z)).sigmoid(), (s.lam_u * s.beta * (a - z)).sigmoid()
    ),
}


def _kto(s: Any, a: Tensor, d: Tensor, z: Tensor) -> Tensor:
    gain = s.beta * (a - z)
    return torch.where(d, s.lam_d * (-gain).sigmoid(), s.lam_u * gain.sigmoid())


def _ratios(batch: Any, valid: Tensor) -> Tensor:
    return clean(batch.mismatched_log_probs - batch.mismatched_ref_log_probs, valid)


_KTO_POINT: dict[str, Any] = {
    "reference point with its gradient": lambda s, batch, valid: (
        _ratios(batch, valid).sum() / valid.sum().clamp(min=1)
    ).clamp(min=0),
    "negative reference point": lambda s, batch, valid: _ratios(batch, valid).detach().sum() / valid.sum().clamp(min=1),
    "mean over padding too": lambda s, batch, valid: _ratios(batch, valid).detach().mean().clamp(min=0),
    "sum for mean": lambda s, batch, valid: _ratios(batch, valid).detach().sum().clamp(min=0),
    "D16 own responses for mismatched ones": lambda s, batch, valid: (
        (clean(batch.log_probs - batch.ref_log_probs, valid).detach().sum() + 0 * _ratios(batch, valid).detach().sum())
        / valid.sum().clamp(min=1)
    ).clamp(min=0),
    "each held above 0": lambda s, batch, valid: (
        _ratios(batch, valid).detach().clamp(min=0).sum() / valid.sum().clamp(min=1)
    ),
    "D12 reference of mismatched dropped": lambda s, batch, valid: (
        (-clean(batch.mismatched_log_probs, valid).detach().sum()) / valid.sum().clamp(min=1)
    ).clamp(min=0),
    "reference point of the row": lambda s, batch, valid: (
        _ratios(batch, valid).detach().sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp(min=1)
    ).clamp(min=0),
}

_KTO_ROW: dict[str, Any] = {
    "sum over a row": lambda s, values, valid: (values.sum(-1), valid.sum(-1).to(values)),
    "rows count once": lambda s, values, valid: (
        values.sum(-1) / valid.sum(-1).clamp(min=1),
        valid.any(-1).to(values),
    ),
    "mean over padding": lambda s, values, valid: (values.mean(-1), valid.sum(-1).to(values)),
    "D20 empty rows count": lambda s, values, valid: (
        values.sum(-1) / valid.sum(-1).clamp(min=1),
        valid.sum(-1).clamp(min=1).to(values),
    ),
    "first response only": lambda s, values, valid: (values[..., 0], valid.sum(-1).to(values)),
}


class _Best(Scaled):
    """Supervised learning, with parts to replace."""

    name = "best_base"

    def __call__(self, batch: Rankings) -> Loss:
        valid = mask_of(batch)
        best = self.chosen(valid, batch)
        count = torch.ones_like(batch.log_probs) if batch.lengths is None else batch.lengths.to(batch.log_probs)
        length = (clean(count, best).sum(-1)).clamp(min=1) if self.per_token else 1.0
        return Loss(self.value(clean(batch.log_probs, best).sum(-1), length), valid.any(-1).to(batch.log_probs))

    def chosen(self, valid: Tensor, batch: Rankings) -> Tensor:
        return valid & (valid.cumsum(-1) == 1)

    def value(self, w: Tensor, length: Any) -> Tensor:
        return -w / length


_SFT: dict[str, Any] = {
    "D07 sign": lambda s, w, length: w / length,
    "probability for its logarithm": lambda s, w, length: -(w / length).exp(),
    "D07b divided twice": lambda s, w, length: -w / length**2,
    "multiplied": lambda s, w, length: -w * length,
    "length not read": lambda s, w, length: -w,
    "focal": lambda s, w, length: -(1 - w.exp()).square() * w / length,
    "half": lambda s, w, length: -0.5 * w / length,
}

_SFT_CHOSEN: dict[str, Any] = {
    "all responses": lambda s, valid, batch: valid,
    "D11 worst for best": lambda s, valid, batch: valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1),
    "likeliest for best": lambda s, valid, batch: (
        torch.nn.functional.one_hot(
            batch.log_probs.detach().masked_fill(~valid, -torch.inf).argmax(-1), valid.shape[-1]
        ).bool()
        & valid
    ),
    "first place, valid or not": lambda s, valid, batch: torch.arange(valid.shape[-1]).expand_as(valid) == 0,
}


class _PairsOnly(DPO):
    """Right for pairs; longer rankings are read from the worst to the best."""

    name = "dpo_of_rankings_reversed"

    def __call__(self, batch: Rankings) -> Loss:
        turned = batch.log_probs.flip(-1) if batch.log_probs.shape[-1] > 2 else batch.log_probs
        return super().__call__(replace(batch, log_probs=turned))


MUTANTS: list[Mutant] = [
    Mutant("rankings of more than two reversed", _PairsOnly, "dpo"),
    *variants(Normalised, "loss", _SIMPO, "simpo"),
    *variants(_OddsOfMeans, "form", _ORPO, "orpo"),
    *variants(Odds, "loss", _ORPO_BY_LENGTH, "orpo"),
    *variants(Uniform, "loss", _CPO, "cpo"),
    *variants(Hinged, "loss", _SLIC, "slic"),
    *variants(Labelled, "loss", _KTO, "kto"),
    *variants(Labelled, "point", _KTO_POINT, "kto"),
    *variants(Labelled, "row", _KTO_ROW, "kto"),
    *variants(_Best, "value", _SFT, "sft"),
    *variants(_Best, "chosen", _SFT_CHOSEN, "sft"),
]
