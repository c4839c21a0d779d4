"""What mutants of preference losses are built from: each is a formula of the numbers of a row's two responses."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings, clean

__all__ = [
    "Classified",
    "Discovered",
    "Diverging",
    "Given",
    "Hinged",
    "Imitating",
    "Labelled",
    "Lasting",
    "Normalised",
    "Odds",
    "Pairs",
    "Plain",
    "Positive",
    "Priced",
    "Regularised",
    "Rewarded",
    "Scaled",
    "Smoothed",
    "Soft",
    "Sure",
    "Targeted",
    "Uniform",
    "mask_of",
    "per_row",
]


class Given(NamedTuple):
    """The log-probabilities of a pair under policy and reference, its lengths (1 where not read), and the batch."""

    w: Tensor
    r: Tensor
    w0: Tensor
    r0: Tensor
    n: Tensor
    m: Tensor
    batch: Any


def mask_of(batch: Rankings) -> Tensor:
    return torch.ones_like(batch.log_probs, dtype=torch.bool) if batch.valid is None else batch.valid


def per_row(values: Tensor, counts: Tensor) -> Loss:
    """Return losses that are 0 and of weight 0 where a row does not count."""
    return Loss(clean(values, counts), counts.to(values))


class Pairs(PreferenceObjective):
    """A loss of the log-ratios a of the chosen and b of the rejected response, and of what else is given."""

    max_candidates = 2
    requires = frozenset({"ref_log_probs"})

    def __call__(self, batch: Rankings) -> Loss:
        counts = mask_of(batch).all(-1)
        both = counts[..., None].expand_as(batch.log_probs)

        def taken(x: Tensor | None, other: float) -> tuple[Tensor, ...]:
            return (torch.full_like(batch.log_probs, other) if x is None else torch.where(both, x, other)).unbind(-1)

        ref = None if batch.ref_log_probs is None else batch.ref_log_probs.detach()
        w, r, w0, r0 = *taken(batch.log_probs, -1.0), *taken(ref, -1.0)
        n, m = (x.to(w) for x in taken(batch.lengths, 1))
        values = self.loss(w - w0, r - r0, Given(w, r, w0, r0, n, m, batch))
        return per_row(values, counts)

    @abstractmethod
    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor: ...


class Plain(Pairs):
    """dpo, nca and others with one parameter."""

    beta: float = Field(default=0.1, gt=0)


class Lasting(Plain):
    """dpo_norm."""

    requires = frozenset({"ref_log_probs", "lengths"})
    beta: float = Field(default=5.0, gt=0)


class Smoothed(Plain):
    """cdpo, robust_dpo."""

    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5)


class Sure(Plain):
    """exo."""

    label_smoothing: float = Field(default=1e-3, gt=0, lt=0.5)


class Soft(Plain):
    """ipo, sppo."""

    soft_labels: bool = False

    def needs(self) -> frozenset[str]:
        return type(self).requires | ({"preference_prob"} if self.soft_labels else frozenset())

    def chance(self, x: Given) -> Any:
        """Return how probable the preference is."""
        return x.batch.preference_prob.detach() if self.soft_labels else 1.0


class Targeted(Soft):
    """ipo with lengths."""

    requires = frozenset({"ref_log_probs", "lengths"})


class Positive(Plain):
    """dpop."""

    lam: float = Field(default=50.0, ge=0)


class Classified(Plain):
    """bco."""

    shift: float = Field(default=0.0, ge=-100, le=100)


class Discovered(Plain):
    """discopop."""

    tau: float = Field(default=0.05, gt=0, le=1)


class Rewarded(Plain):
    """rpo_reward_aware."""

    requires = frozenset({"ref_log_probs", "margins"})
    eta: float = Field(default=1.0, gt=0)


class Diverging(Plain):
    """f_dpo."""

    divergence: Literal["reverse", "forward", "js", "alpha"] = "reverse"
    alpha: float = Field(default=0.5, gt=0, le=1)

    def loss(self, a: Tensor, b: Tensor, x: Given) -> Tensor:
        return -torch.nn.functional.logsigmoid(self.beta * (self.slope(a) - self.slope(b)))

    def slope(self, a: Tensor) -> Tensor:
        """Return f'(u)."""
        if self.divergence == "reverse":
            return self.reverse(a)
        if self.divergence == "js":
            return self.js(a)
        return self.by_order(a, self.alpha if self.divergence == "alpha" else 1.0)

    def reverse(self, a: Tensor) -> Tensor:
        return a

    def js(self, a: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid(a)

    def by_order(self, a: Tensor, order: float) -> Tensor:
        far = torch.e**60 * (1 - order * a - 60) - 1
        return -torch.where(-order * a > 60, far, torch.expm1((-order * a).clamp(max=60))) / order


class Priced(Plain):
    """r_dpo."""

    requires = frozenset({"ref_log_probs", "lengths"})
    alpha: float = Field(default=0.05, ge=0)


class Imitating(Plain):
    """rpo_iterative."""

    requires = frozenset({"ref_log_probs", "lengths"})
    alpha: float = Field(default=1.0, ge=0)


class Regularised(Plain):
    """rpo_sft."""

    eta: float = Field(default=0.005, ge=0)


class Uniform(Pairs):
    """cpo."""

    requires = frozenset()
    beta: float = Field(default=0.1, gt=0)
    lam: float = Field(default=1.0, ge=0)


class Hinged(Pairs):
    """slic."""

    requires = frozenset()
    delta: float = Field(default=1.0, ge=0)
    lam: float = Field(default=0.1, ge=0)


class Normalised(Pairs):
    """simpo."""

    requires = frozenset({"lengths"})
    beta: float = Field(default=2.0, gt=0)
    gamma: float = Field(default=1.0, ge=0)


class Odds(Pairs):
    """orpo."""

    requires = frozenset({"lengths"})
    lam: float = Field(default=0.1, ge=0)

    def log_odds(self, x: Tensor) -> Tensor:
        held = x.clamp(max=-1e-12)
        return held - torch.log(-torch.expm1(held))


class Labelled(PreferenceObjective):
    """kto: a loss of each response's log-ratio a, its label d, and the mean z over mismatched responses."""

    requires = frozenset({"ref_log_probs", "mismatched_log_probs", "mismatched_ref_log_probs", "desirable"})
    scope = "batch"
    beta: float = Field(default=0.1, gt=0)
    lam_d: float = Field(default=1.0, gt=0)
    lam_u: float = Field(default=1.0, gt=0)

    def __call__(self, batch: Rankings) -> Loss:
        assert batch.ref_log_probs is not None and batch.desirable is not None
        valid = mask_of(batch)
        a = clean(batch.log_probs - batch.ref_log_probs.detach(), valid)
        values = clean(self.loss(a, batch.desirable, self.point(batch, valid)), valid)
        return Loss(*self.row(values, valid))

    def point(self, batch: Any, valid: Tensor) -> Tensor:
        ratio = clean(batch.mismatched_log_probs - batch.mismatched_ref_log_probs, valid).detach()
        return (ratio.sum() / valid.sum().clamp(min=1)).clamp(min=0)

    def row(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        count = valid.sum(-1)
        return values.sum(-1) / count.clamp(min=1), count.to(values)

    def loss(self, a: Tensor, d: Tensor, z: Tensor) -> Tensor:
        gain = self.beta * (a - z)
        return torch.where(d, self.lam_d * torch.sigmoid(-gain), self.lam_u * torch.sigmoid(gain))


class Scaled(PreferenceObjective):
    """sft."""

    per_token: bool = False

    def needs(self) -> frozenset[str]:
        return frozenset({"lengths"}) if self.per_token else frozenset()
