"""Definitions of record of role controller, run by run in exact fractions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.inputs import Observed

__all__ = ["DEFINITIONS"]


def _each(inputs: Observed, factor: Callable[[Fraction], Fraction]) -> Mapping[str, Tensor]:
    """Return each run's coefficient times ``factor(observed)``."""
    pairs = zip(inputs.coefficient.flatten().tolist(), inputs.observed.flatten().tolist(), strict=True)
    found = [float(Fraction(coefficient) * factor(Fraction(observed))) for coefficient, observed in pairs]
    return {"coefficient": torch.tensor(found, dtype=torch.float64).view(inputs.coefficient.shape)}


def _fixed(inputs: Observed) -> Mapping[str, Tensor]:
    return _each(inputs, lambda _: Fraction(1))


def _adaptive(inputs: Observed, target: float, tolerance: float, factor: float) -> Mapping[str, Tensor]:
    def change(observed: Fraction) -> Fraction:
        ratio = observed / Fraction(target)
        if ratio > Fraction(tolerance):
            return Fraction(factor)
        return 1 / Fraction(factor) if ratio * Fraction(tolerance) < 1 else Fraction(1)

    return _each(inputs, change)


def _proportional(inputs: Observed, target: float, rate: float, clip: float) -> Mapping[str, Tensor]:
    def change(observed: Fraction) -> Fraction:
        error = (observed - Fraction(target)) / Fraction(target)
        return 1 + Fraction(rate) * sorted((-Fraction(clip), error, Fraction(clip)))[1]

    return _each(inputs, change)


DEFINITIONS: list[Definition] = [
    Definition("controller", "fixed", "β ← β", "none; nothing is steered", {}, _fixed),
    Definition(
        "controller",
        "adaptive_kl",
        "β ← factor β where KL > tolerance · target, β / factor where KL < target / tolerance, else β",
        "Schulman et al. 2017, section 4",
        {"target": 0.01, "tolerance": 1.5, "factor": 2.0},
        _adaptive,
    ),
    Definition(
        "controller",
        "proportional_kl",
        "β ← β (1 + rate · clip(KL / target − 1, −clip, clip))",
        "Ziegler et al. 2019, section 2.2",
        {"target": 6.0, "rate": 0.1, "clip": 0.2},
        _proportional,
    ),
]
