"""Lengths and shares of sequences, for aggregations in tests."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["all_of", "lengths", "once", "shares"]


def lengths(valid: Tensor, labels: Tensor) -> Tensor:
    """Return how many valid steps of its row have the same label as a step, at least 1."""
    together = (labels[..., None] == labels[..., None, :]) & valid[..., None, :]
    return together.sum(-1).clamp(min=1).double()


def shares(valid: Tensor, ends: Tensor) -> Tensor:
    """Return 1 / length of a step's sequence, 0 where not valid."""
    return valid / lengths(valid, ends.cumsum(-1) - ends.long())


def all_of(x: Tensor) -> Tensor:
    """Return the sum over the micro-batch, of a shape that divides it."""
    return x.double().sum((-2, -1), keepdim=True).clamp(min=1e-300)


def once(x: Tensor, value: Tensor | float = 1.0) -> Tensor:
    """Return a number once per micro-batch, 0 elsewhere."""
    at_first = torch.zeros_like(x, dtype=torch.float64)
    at_first[..., :1, :1] = value
    return at_first
