"""Mutants of policy objectives whose formula is right, but not what is around it."""

from __future__ import annotations

import torch

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

from .mutant import Mutant
from .objective_bases import Score, Surrogate
from .two_forms import TwoForms

__all__ = ["MUTANTS"]

_SEEN: list[float] = []


class Remembers(Score):
    name = "remembers"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        _SEEN.append(float(a.sum()))
        return -(a - 1e-3 * len(_SEEN)) * lp


class GlobalNoise(Score):
    name = "global_noise"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * lp * (torch.rand_like(a) < 0.9)


class ByRow(Score):
    name = "by_row"
    scope = "batch"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * lp * torch.arange(1, len(a) + 1).to(a)[:, None]


class TwoAxes(Score):
    name = "two_axes"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return torch.stack([-a[row, :] * lp[row, :] for row in range(a.shape[0])]) / (a.ndim - 1)


class AnotherPrecision(Score):
    name = "another_precision"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return (-a * lp).double()


class Cancels(Surrogate):
    name = "cancels"

    def loss(self, a: torch.Tensor, x: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * ((x + 2.0**26) - 2.0**26).exp()


class PaddingShared(PolicyObjective):
    """The last step learns from the padding behind it."""

    name = "padding_shared"
    scope = "episode"

    def __call__(self, batch: PolicyBatch) -> Loss:
        lp = torch.where(batch.log_probs.isfinite(), batch.log_probs, 0)
        behind = torch.cat([lp[..., 1:], torch.zeros_like(lp[..., :1])], dim=-1)
        after = torch.cat([batch.valid[..., 1:], torch.ones_like(batch.valid[..., :1])], dim=-1)
        mixed = clean(lp, batch.valid) + 0.1 * behind.masked_fill(after, 0)
        return Loss(-clean(batch.advantages.detach(), batch.valid) * mixed)


class WrongShape(PolicyObjective):
    name = "wrong_shape"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss((-clean(batch.advantages.detach(), batch.valid) * clean(batch.log_probs, batch.valid)).sum(-1))


class Overflows(Surrogate):
    name = "overflows"

    def loss(self, a: torch.Tensor, x: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * (6 * x).exp() / (5 * x).exp()


class Rounded(Score):
    name = "rounded"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -(a.float() * lp.float()).to(lp.dtype)


class PaddedAdvantages(PolicyObjective):
    name = "padded_advantages"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-batch.advantages.detach() * clean(batch.log_probs, batch.valid))


class Held(Surrogate):
    name = "held"

    def loss(self, a: torch.Tensor, x: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * x.clamp(-5, 5).exp()


class SecondForm(TwoForms, Score):
    name = "objective_second_form"

    def loss(self, a: torch.Tensor, lp: torch.Tensor, batch: PolicyBatch) -> torch.Tensor:
        return -a * (2 * lp if self.second else lp)


MUTANTS: list[Mutant] = [
    Mutant("state between calls", Remembers, "reinforce"),
    Mutant("global randomness", GlobalNoise, "reinforce"),
    Mutant("rows weighed by their place", ByRow, "reinforce"),
    Mutant("runs not expected", TwoAxes, "reinforce"),
    Mutant("float64 whatever is asked", AnotherPrecision, "reinforce"),
    Mutant("cancellation in float32", Cancels, "importance_weighted"),
    Mutant("float32 inside", Rounded, "reinforce"),
    Mutant("nan of the padding in the loss", PaddedAdvantages, "reinforce"),
    Mutant("log-ratio held within 5", Held, "importance_weighted"),
    Mutant("padding behind the last step", PaddingShared, "reinforce"),
    Mutant("a sum where a step's loss is due", WrongShape, "reinforce"),
    Mutant("another form for another device", SecondForm, "reinforce"),
    Mutant("overflow where the answer is finite", Overflows, "importance_weighted"),
]
