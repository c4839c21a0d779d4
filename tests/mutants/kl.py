"""Broken KL estimators: biased values, losses with the gradient of something else, weights gone wrong.

Codes are those of the list of real bugs. Those of whole distributions: see ``kl_distributions``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import torch
from pydantic import Field
from torch import Tensor

from mutants.kl_distributions import WHOLE, ByCrossEntropy
from mutants.mutant import Mutant
from rlhf_lab.components import KLEstimator

__all__ = ["CONTROLS", "MUTANTS"]


def weighed(estimate: Tensor, policy: Tensor, old: Tensor | None) -> Tensor:
    return estimate if old is None else (policy - old.detach()).exp() * estimate


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    gap = reference.detach() - policy
    return gap.exp() - 1 - gap


class Estimator(KLEstimator):
    """An estimator without memory; ``one`` is the estimate of a sample of the policy itself."""

    stacked = True

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return weighed(self.one(log_probs, ref_log_probs.detach()), log_probs, old_log_probs)


class DetachedWeight(Estimator):
    """The same with a weight that carries no gradient."""

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return weighed(self.one(log_probs, ref_log_probs.detach()), log_probs.detach(), old_log_probs)


class Unweighed(Estimator):
    """The same without a weight."""

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        return self.one(log_probs, ref_log_probs.detach())


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


class SecondForm(Estimator):
    name = "second_form"

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return {"other": other_form}

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) * (2 if forms else 1)


forms: Final[list[str]] = []


@contextmanager
def other_form() -> Iterator[None]:
    forms.append("other")
    yield
    forms.pop()


class LiveK2(Estimator):
    name = "live_k2"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) ** 2 / 2


class K2Unweighed(Unweighed):
    name = "k2_unweighed"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) ** 2 / 2


class WholeSquare(DetachedWeight):
    name = "whole_square"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) ** 2


class SquareOfRatio(DetachedWeight):
    name = "square_of_ratio"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return ((policy - reference).exp() - 1) ** 2 / 2


class SquareOfChances(DetachedWeight):
    name = "square_of_chances"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy.exp() - reference.exp()) ** 2 / 2


class Huber(DetachedWeight):
    name = "huber"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        gap = (policy - reference).abs()
        return torch.where(gap < 1, gap**2 / 2, gap - 0.5)


class K2OfTheAverage(DetachedWeight):
    name = "k2_of_the_average"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).sum(-1, keepdim=True) ** 2 / 2 / policy.shape[-1] + 0 * policy


class K3Turned(Estimator):
    name = "k3_turned"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).exp() - 1 - (policy - reference)


class K3Unweighed(Unweighed):
    name = "k3_unweighed"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return k3(policy, reference)


class K3Detached(DetachedWeight):
    name = "k3_detached"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return k3(policy, reference)


class ExponentOfRatio(Estimator):
    name = "exponent_of_ratio"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        ratio = (reference - policy).exp()
        return ratio.exp() - 1 - ratio


class WithoutOne(Estimator):
    name = "without_one"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (reference - policy).exp() - (reference - policy)


class PlusLog(Estimator):
    name = "plus_log"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (reference - policy).exp() - 1 + (reference - policy)


class K3Clamped(Estimator):
    name = "k3_clamped"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return k3(policy, reference).clamp(-10, 10)


class LogRatioClamped(Estimator):
    name = "log_ratio_clamped"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        gap = (reference - policy).clamp(-1, 1)
        return gap.exp() - 1 - gap


class Cancels(Estimator):
    name = "cancels"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        gap = reference - policy
        return ((gap.exp() + 1e3) - (gap + 1e3)) - 1


class SecondOrder(Estimator):
    name = "second_order"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        gap = reference - policy
        return gap**2 / 2 + gap**3 / 6


class GradientOfK2(Estimator):
    name = "gradient_of_k2"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        straight = (policy - reference) ** 2 / 2
        return k3(policy, reference).detach() + straight - straight.detach()


class Overflows(Estimator):
    name = "overflows"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        gap = reference - policy
        return (gap.exp() ** 30).log() / gap.exp() ** 30 * 0 + k3(policy, reference)


class HalfAbsolute(Estimator):
    name = "half_absolute"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).abs() / 2


class DifferenceOfChances(Estimator):
    name = "difference_of_chances"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy.exp() - reference.exp()).abs()


class AbsoluteUnweighed(Unweighed):
    name = "absolute_unweighed"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).abs()


class AbsoluteDetached(DetachedWeight):
    name = "absolute_detached"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).abs()


class Smoothed(Estimator):
    name = "smoothed"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return ((policy - reference) ** 2 + 1e-4).sqrt()


class AbsoluteStopped(Estimator):
    name = "absolute_stopped"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference).detach().abs()


class SignForgotten(Estimator):
    name = "sign_forgotten"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return policy - reference


class K2AsRewardGradient(DetachedWeight):
    """Right: the detached log-ratio times the log-probability has the value that k2 lacks and the gradient of k2."""

    name = "k2_as_reward_gradient"
    claims = frozenset({"loss-gradient", "off-policy-loss-gradient", "policy-ratio-detached"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        ratio = (policy - reference).detach()
        return ratio * (policy - policy.detach()) + ratio**2 / 2


class K2OnPolicy(Unweighed):
    """Right on-policy, which is all that it claims."""

    name = "k2_on_policy"
    claims = frozenset({"loss-gradient", "non-negative", "symmetric", "flat-at-the-reference"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return (policy - reference) ** 2 / 2


class K3Plus(Estimator):
    """Right: the value of k3 with the gradient of k2."""

    name = "k3_plus"
    claims = frozenset({"unbiased-value", "loss-gradient", "non-negative", "flat-at-the-reference"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        straight = (policy - reference) ** 2 / 2
        return k3(policy, reference).detach() + straight - straight.detach()


class PlainK3(Estimator):
    """Right: k3 as it is usually written, which cancels near the reference."""

    name = "plain_k3"
    implements = "k3"
    claims = frozenset({"unbiased-value", "off-policy-loss-gradient", "forward-loss-gradient", "non-negative"})

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return k3(policy, reference)


class AbsoluteByCases(Estimator):
    """Right: another slope at the kink."""

    name = "absolute_by_cases"
    implements = "abs"

    def one(self, policy: Tensor, reference: Tensor) -> Tensor:
        return torch.where(policy >= reference, policy - reference, reference - policy)


MUTANTS: Final = [
    Mutant("K02", K1Unweighed, "k1"),
    Mutant("K02", K1Unweighed, "k2"),
    Mutant("K04", K1Detached, "k1"),
    Mutant("P11: sign", K1Turned, "k1"),
    Mutant("K08", MinusRatio, "k1"),
    Mutant("K08: about 0", RatioMinusOne, "k1"),
    Mutant("weighed by the policy", ChanceTimesRatio, "k1"),
    Mutant("logarithm to base 2", InBits, "k1"),
    Mutant("K10", Clamped, "k1"),
    Mutant("negative samples dropped", OnlyPositive, "k1"),
    Mutant("gradient stopped", GradientStopped, "k1"),
    Mutant("weight upside down", WeightTurned, "k1"),
    Mutant("weight capped", WeightCapped, "k1"),
    Mutant("old policy for the reference", AgainstOldPolicy, "k1"),
    Mutant("P09: gradient into the reference", LiveReference, "k1"),
    Mutant("gradient into the old policy", LiveOldPolicy, "k1"),
    Mutant("K14: mean over the batch", BatchMean, "k1"),
    Mutant("sum over earlier steps", SumSoFar, "k1"),
    Mutant("ratio of probabilities", ThroughProbabilities, "k1"),
    Mutant("in place", InPlace, "k1"),
    Mutant("rows weighed by their place", RowsByPlace, "k1"),
    Mutant("two axes only", TwoAxesOnly, "k1"),
    Mutant("keeps state", Remembers, "k1"),
    Mutant("float32 inside", Rounded, "k1"),
    Mutant("N13b: coefficient is not read", CoefficientUnread, "k1"),
    Mutant("another device, another formula", SecondForm, "k1"),
    Mutant("K03b: gradient of E[k2]", LiveK2, "k2"),
    Mutant("K03b", K2Unweighed, "k2"),
    Mutant("half forgotten", WholeSquare, "k2"),
    Mutant("square of ratio - 1", SquareOfRatio, "k2"),
    Mutant("square of probabilities", SquareOfChances, "k2"),
    Mutant("linear far away", Huber, "k2"),
    Mutant("square of the sequence's sum", K2OfTheAverage, "k2"),
    Mutant("K01", K3Turned, "k3"),
    Mutant("K03", K3Unweighed, "k3"),
    Mutant("K03", K3Unweighed, "k2"),
    Mutant("K04", K3Detached, "k3"),
    Mutant("K12", ExponentOfRatio, "k3"),
    Mutant("one forgotten", WithoutOne, "k3"),
    Mutant("sign of the logarithm", PlusLog, "k3"),
    Mutant("value clamped", K3Clamped, "k3"),
    Mutant("K10", LogRatioClamped, "k3"),
    Mutant("cancellation", Cancels, "k3"),
    Mutant("expansion", SecondOrder, "k3"),
    Mutant("k3+ under the name of k3", GradientOfK2, "k3"),
    Mutant("overflow", Overflows, "k3"),
    Mutant("half", HalfAbsolute, "abs"),
    Mutant("difference of probabilities", DifferenceOfChances, "abs"),
    Mutant("without weight", AbsoluteUnweighed, "abs"),
    Mutant("K04", AbsoluteDetached, "abs"),
    Mutant("smoothed", Smoothed, "abs"),
    Mutant("gradient stopped", AbsoluteStopped, "abs"),
    Mutant("absolute value forgotten", SignForgotten, "abs"),
    *WHOLE,
]
CONTROLS: Final[list[type[KLEstimator]]] = [
    K2AsRewardGradient,
    K2OnPolicy,
    K3Plus,
    PlainK3,
    AbsoluteByCases,
    ByCrossEntropy,
]
