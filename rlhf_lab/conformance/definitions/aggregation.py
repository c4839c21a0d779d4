"""Definitions of record of role aggregation: the share of each step in the loss, by counting in whole numbers.

Only the share = weight / Σ total is defined, since a common factor of weights and totals has no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.inputs import Masks, segments

__all__ = ["DEFINITIONS"]

_FLOAT32: Final = 1e-6  # masks know no dtype, so that weights may be rounded to float32


def _shared(inputs: Masks, share: Callable[[int, int, int], Fraction]) -> Mapping[str, Tensor]:
    """Return the shares, given each sequence's length, the number of sequences and of valid steps."""
    sequences = segments(inputs)
    steps = sum(len(each.steps) for each in sequences)
    shares = torch.zeros(inputs.valid.shape, dtype=torch.float64)
    for each in sequences:
        shares[each.row, list(each.steps)] = float(share(len(each.steps), len(sequences), steps))
    return {"share": shares}


def _token_mean(inputs: Masks) -> Mapping[str, Tensor]:
    return _shared(inputs, lambda _, __, steps: Fraction(1, steps))


def _sequence_mean(inputs: Masks) -> Mapping[str, Tensor]:
    return _shared(inputs, lambda own, sequences, _: Fraction(1, own * sequences))


def _sequence_sum(inputs: Masks) -> Mapping[str, Tensor]:
    return _shared(inputs, lambda _, sequences, __: Fraction(1, sequences))


def _constant(inputs: Masks, length: float) -> Mapping[str, Tensor]:
    return _shared(inputs, lambda _, sequences, __: 1 / (sequences * Fraction(length)))


def _define(
    name: str, statement: str, reference: str, answer: Callable[..., Mapping[str, Tensor]], **parameters: float
) -> Definition:
    return Definition("aggregation", name, statement, reference, parameters, answer, tolerance=_FLOAT32)


DEFINITIONS: list[Definition] = [
    _define("token_mean", "loss = Σ values / number of valid steps", "Schulman et al. 2017, eq. 7", _token_mean),
    _define(
        "sequence_mean",
        "loss = mean over sequences of (Σ values / length); a sequence is an episode with a valid step",
        "Shao et al. 2024 (GRPO), eq. 3",
        _sequence_mean,
    ),
    _define(
        "sequence_sum",
        "loss = Σ values / number of sequences; a sequence is an episode with a valid step",
        "Williams 1992",
        _sequence_sum,
    ),
    _define(
        "constant",
        "loss = Σ values / (number of sequences · length) with a fixed length",
        "Liu et al. 2025 (Dr. GRPO), section 3.2",
        _constant,
        length=1.0,
    ),
]
