"""Definitions of record that treat each step alone: a formula of one step's numbers becomes an answer to a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import tensors

__all__ = ["EDGE", "Held", "held", "stepwise"]

EDGE: Final = 1e-9  # how near to a kink a number stands on it: there the gradient is not defined

Formula = Callable[..., tuple[float, ...]]


class Held(NamedTuple):
    """A number held between two bounds, and the derivative of it: 1 inside, 0 outside, NaN on a bound."""

    value: float
    slope: float


def held(x: float, low: float, high: float) -> Held:
    """Return ``min(max(x, low), high)`` and its derivative."""
    value = min(max(x, low), high)
    if min(abs(x - low), abs(x - high)) <= EDGE:
        return Held(value, math.nan)
    return Held(value, 1.0 if low < x < high else 0.0)


def stepwise(formula: Formula, symbols: tuple[str, ...]) -> Callable[..., Mapping[str, Tensor]]:
    """Return the answer of a definition whose ``formula(numbers of a step, **parameters)`` gives the ``symbols``.

    The numbers are the fields of the batch by name. Invalid steps get 0.
    """

    def answer(batch: Any, **parameters: Any) -> Mapping[str, Tensor]:
        fields = {name: x.tolist() for name, axes, x in tensors(batch) if axes == "same"}
        rows, steps = batch.valid.shape
        found = [[(0.0,) * len(symbols)] * steps for _ in range(rows)]
        for row, t in batch.valid.nonzero().tolist():
            found[row][t] = formula({name: x[row][t] for name, x in fields.items()}, **parameters)
        return dict(zip(symbols, torch.tensor(found, dtype=torch.float64).unbind(-1), strict=True))

    return answer
