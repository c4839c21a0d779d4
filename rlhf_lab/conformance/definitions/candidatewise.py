"""Definitions of record that treat each row alone: a formula of its valid candidates becomes an answer to a batch.

Formulas are written with the odds e^s themselves: in decimal numbers no exponential of a score overflows and no
probability underflows, so that nothing has to be subtracted first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, localcontext
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import tensors

__all__ = ["Formula", "Row", "candidatewise", "odds"]

_DIGITS: Final = Context(prec=40, Emax=10**9, Emin=-(10**9))

Formula = Callable[..., tuple[float, Sequence[float]]]  # of a row and parameters: its loss, and a slope per candidate


class Row(NamedTuple):
    """The valid candidates of a row: scores, what is told of each by name, and what is told of the row by name."""

    scores: list[float]
    each: Mapping[str, list[Any]]
    whole: Mapping[str, float]


def candidatewise(formula: Formula, at_least: int = 2, field: str = "scores") -> Callable[..., Mapping[str, Tensor]]:
    """Return the answer of a definition whose ``formula(row, **parameters)`` gives a row's loss and its slopes.

    A row with fewer than ``at_least`` valid candidates has the weight 0, and then any loss will do.
    """

    def answer(batch: Any, **parameters: Any) -> Mapping[str, Tensor]:
        each = {name: x.tolist() for name, axes, x in tensors(batch) if axes == "same" and name != "valid"}
        whole = {name: x.tolist() for name, axes, x in tensors(batch) if axes == "row"}
        rows, k = batch.valid.shape
        losses, slopes, weights = [math.nan] * rows, [[0.0] * k for _ in range(rows)], [0.0] * rows
        for n, valid in enumerate(batch.valid.tolist()):
            at = [i for i in range(k) if valid[i]]
            if len(at) < at_least:
                continue
            told = {name: [x[n][i] for i in at] for name, x in each.items()}
            row = Row(told[field], told, {name: x[n] for name, x in whole.items()})
            with localcontext(_DIGITS):
                losses[n], slope_of_each = formula(row, **parameters)
            weights[n] = 1.0
            for i, slope in zip(at, slope_of_each, strict=True):
                slopes[n][i] = slope
        found = {"L": losses, f"dL/d{field}": slopes, "weights": weights}
        return {symbol: torch.tensor(x, dtype=torch.float64) for symbol, x in found.items()}

    return answer


def odds(score: float) -> Decimal:
    """Return e^score."""
    return Decimal(score).exp()
