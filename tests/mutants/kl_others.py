"""Mutants of k2, k3 and abs."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.kl_bases import DetachedWeight, Estimator, Unweighed, k3

__all__ = [
    "AbsoluteDetached",
    "AbsoluteStopped",
    "AbsoluteUnweighed",
    "Cancels",
    "DifferenceOfChances",
    "ExponentOfRatio",
    "GradientOfK2",
    "HalfAbsolute",
    "Huber",
    "K2OfTheAverage",
    "K2Unweighed",
    "K3Clamped",
    "K3Detached",
    "K3Turned",
    "K3Unweighed",
    "LiveK2",
    "LogRatioClamped",
    "Overflows",
    "PlusLog",
    "SecondOrder",
    "SignForgotten",
    "Smoothed",
    "SquareOfChances",
    "SquareOfRatio",
    "WholeSquare",
    "WithoutOne",
]


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
