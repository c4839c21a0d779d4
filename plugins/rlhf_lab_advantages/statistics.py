"""Means and deviations over groups of rows, weighted per step, in float64 and exact at the edges.

A group is shifted by its smallest element first. Hence a constant group has deviation exactly 0, and a large common
offset costs no digits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.types import clean

__all__ = ["centred", "standardised", "sums"]


def sums(x: Tensor, labels: Tensor, groups: int) -> Tensor:
    """Return the sum of ``x [rows]`` over each group, ``[groups]``."""
    return x.new_zeros(groups).index_add_(0, labels, x)


def centred(x: Tensor, weights: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Return x − mean of its group, float64 ``[rows, t]``, 0 where the weight is 0.

    ``x``, finite, and ``weights`` are ``[rows, t]`` (0 = does not count), ``labels [rows]`` says each row's group, and
    ``sizes [groups]`` is what the weights of each group sum to.
    """
    counted = weights > 0
    x = x.double()
    smallest = x.new_full(sizes.shape, torch.inf)
    smallest.scatter_reduce_(0, labels, x.masked_fill(~counted, torch.inf).amin(-1), "amin")
    shifted = x - smallest[labels, None]
    means = sums((weights * shifted).sum(-1), labels, len(sizes)) / sizes  # NaN of an empty group, which nobody reads
    return clean(shifted - means[labels, None], counted)


def standardised(x: Tensor, weights: Tensor, labels: Tensor, sizes: Tensor, *, ddof: int, eps: float) -> Tensor:
    """Return (x − mean) / (std + eps) of its group, 0 where that is constant or too small; arguments as in ``centred``.

    The variance is Σ w·(x − mean)² / (size − ddof); a group is too small where size ≤ ddof.
    """
    distance = centred(x, weights, labels, sizes)
    squares = sums((weights * distance.square()).sum(-1), labels, len(sizes))
    deviation = (squares / (sizes - ddof)).sqrt()
    scale = torch.where((deviation > 0) & (sizes > ddof), 1 / (deviation + eps), 0)
    return distance * scale[labels, None]
