"""Mutants of k1."""

from __future__ import annotations

import math
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from mutants.kl_bases import DetachedWeight, Estimator, Unweighed, weighed
from mutants.two_forms import TwoForms

__all__ = [
    "AgainstOldPolicy",
    "BatchMean",
    "ChanceTimesRatio",
    "Clamped",
    "CoefficientUnread",
    "GradientStopped",
    "InBits",
    "InPlace",
    "K1Detached",
    "K1Turned",
    "K1Unweighed",
    "LiveOldPolicy",
    "LiveReference",
    "MinusRatio",
    "OnlyPositive",
    "RatioMinusOne",
    "Remembers",
    "Rounded",
    "RowsByPlace",
    "SecondForm",
    "SumSoFar",
    "ThroughProbabilities",
    "TwoAxesOnly",
    "WeightCapped",
    "WeightTurned",
    "calls",
]


class K1Unweighed(Unweighed):
    name = "k1_unweighed"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return policy - reference


class K1Detached(DetachedWeight):
    name = "k1_detached"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return policy - reference


class K1Turned(Estimator):
    name = "k1_turned"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return reference - policy


class MinusRatio(Estimator):
    name = "minus_ratio"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return -(policy - reference).exp()


class RatioMinusOne(Estimator):
    name = "ratio_minus_one"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).exp() - 1


class ChanceTimesRatio(Estimator):
    name = "chance_times_ratio"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return policy.exp() * (policy - reference)


class InBits(Estimator):
    name = "in_bits"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) / math.log(2)


class Clamped(Estimator):
    name = "clamped"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).clamp(-2, 2)


class OnlyPositive(Estimator):
    name = "only_positive"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).clamp(min=0)


class Rounded(Unweighed):
    name = "rounded"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy.float() - reference.float()).to(policy.dtype)


class GradientStopped(Estimator):
    name = "gradient_stopped"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).detach()


class WeightTurned(Estimator):
    name = "weight_turned"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        estimate = log_probs - ref_log_probs.detach()
        return estimate if old_log_probs is None else (old_log_probs.detach() - log_probs).exp() * estimate


class WeightCapped(Estimator):
    name = "weight_capped"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        estimate = log_probs - ref_log_probs.detach()
        return estimate if old_log_probs is None else (log_probs - old_log_probs.detach()).exp().clamp(max=2) * estimate


class AgainstOldPolicy(Estimator):
    name = "against_old_policy"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return log_probs - (ref_log_probs if old_log_probs is None else old_log_probs).detach()


class LiveReference(Estimator):
    name = "live_reference"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return weighed(log_probs - ref_log_probs, log_probs, old_log_probs)


class LiveOldPolicy(Estimator):
    name = "live_old_policy"

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        estimate = log_probs - ref_log_probs.detach()
        return estimate if old_log_probs is None else (log_probs - old_log_probs).exp() * estimate


class BatchMean(Estimator):
    name = "batch_mean"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).mean().expand(policy.shape)


class SumSoFar(Estimator):
    name = "sum_so_far"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).cumsum(-1)


class ThroughProbabilities(Estimator):
    name = "through_probabilities"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy.exp() / reference.exp()).log()


class InPlace(Estimator):
    name = "in_place"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return -(reference.sub_(policy))


class RowsByPlace(Estimator):
    name = "rows_by_place"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        places = torch.arange(policy.shape[0], dtype=policy.dtype).view(-1, *[1] * (policy.ndim - 1))
        return (policy - reference) * (1 + places)


class TwoAxesOnly(Estimator):
    name = "two_axes_only"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        rows, steps = policy.shape
        return (policy - reference).view(rows, steps)


class Remembers(Estimator):
    name = "remembers"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        calls.append(len(calls))
        return (policy - reference) * (1 + 2.0**-12 * len(calls))


calls: Final[list[int]] = []


class CoefficientUnread(Estimator):
    name = "coefficient_unread"
    coefficient: float = Field(default=1.0, gt=0)

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return policy - reference


class SecondForm(TwoForms, Estimator):
    name = "second_form"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) * (2 if self.second else 1)
