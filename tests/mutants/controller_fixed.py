"""Mutants of fixed."""

from __future__ import annotations

import torch
from torch import Tensor

from mutants.two_forms import TwoForms
from rlhf_lab.components import Controller

__all__ = [
    "AddsNoise",
    "AtLeastALittle",
    "AtMostOne",
    "Decays",
    "Overwrites",
    "ReturnsObserved",
    "Rounded",
    "SecondForm",
    "TurnsAround",
]


class Decays(Controller):
    name = "decays"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return 0.99 * coefficient


class AtMostOne(Controller):
    name = "at_most_one"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.clamp(max=1)


class AtLeastALittle(Controller):
    name = "at_least_a_little"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.clamp(min=1e-3)


class ReturnsObserved(Controller):
    name = "returns_observed"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return observed.clone()


class Overwrites(Controller):
    name = "overwrites"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        with torch.no_grad():
            return coefficient.mul_(0.5)


class AddsNoise(Controller):
    name = "adds_noise"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (1 + 0.01 * torch.rand_like(coefficient))


class Rounded(Controller):
    name = "rounded"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient.float().to(coefficient.dtype)


class TurnsAround(Controller):
    name = "turns_around"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return torch.where((observed > 0.005) & (observed < 5), 2 * coefficient, coefficient)


class SecondForm(TwoForms, Controller):
    name = "second_form"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return coefficient * (2 if self.second else 1)
