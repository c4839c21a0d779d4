"""Linear algebra on a leading run axis, with the same bits for a run whatever runs beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.random import Streams

__all__ = ["affine", "orthogonal", "take"]


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight + bias`` run by run: ``[runs, n, i]``, ``[runs, i, o]`` and ``[runs, 1 or n, o]``."""
    if x.shape[0] == 1:
        # BLAS has routines of its own for one matrix (a matrix times one column, a product split over threads), which
        # round differently from a batch of them. A batch of two takes the same path as any larger one.
        twice = None if bias is None else bias.expand(2, -1, -1)
        return affine(x.expand(2, -1, -1), weight.expand(2, -1, -1), twice)[:1]
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)


def take(table: Tensor, index: Tensor) -> Tensor:
    """Return rows ``index [runs, n]`` of ``table [runs, rows, k]``, each run from its own: ``[runs, n, k]``.

    By ``gather``, because the gradient of ``table[index]`` is summed by several threads in an order that changes.
    """
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))


def orthogonal(streams: Streams, inputs: int, outputs: int, gain: float) -> Tensor:
    """Return random semi-orthogonal weights ``[runs, inputs, outputs]``, times ``gain``.

    The shorter side is orthonormal: Q of the QR factors of a normal matrix, with the signs that make the diagonal of R
    positive, so that Q is uniformly distributed and does not depend on the LAPACK in use.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """
    long, short = max(inputs, outputs), min(inputs, outputs)
    q, r = torch.linalg.qr(streams.normals(0, long, short))
    weights = gain * q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return weights if inputs >= outputs else weights.transpose(1, 2).contiguous()
