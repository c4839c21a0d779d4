"""Linear algebra on a leading run axis, with the same bits for a run whatever runs beside it.

BLAS picks a routine by the sizes of the matrices, and routines round differently. What other runs do must not change the
sizes, and it could in two ways: by their number, and by their longer episodes, to whose length all rows are padded.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf_lab.random import Streams

__all__ = ["BLOCK", "affine", "orthogonal", "take"]

BLOCK: Final = 128  # rows per product


class _Affine(torch.autograd.Function):
    """``x @ weight + bias`` and its gradients, ``BLOCK`` rows at a time; blocks of zeros change no bit of a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _join([torch.baddbmm(bias, block, weight) for block in x.split(BLOCK, dim=1)])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grads = grad.split(BLOCK, dim=1)
        by_x = _join([torch.bmm(g, weight.mT) for g in grads]) if ctx.needs_input_grad[0] else None
        by_weight, by_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[0], 1, weight.shape[2])
        for block, g in zip(x.split(BLOCK, dim=1), grads, strict=True):
            by_weight += torch.bmm(block.mT, g)
            by_bias += g.sum(dim=1, keepdim=True)
        return by_x, by_weight, by_bias


def _join(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight + bias`` run by run: ``[runs, n, i]``, ``[runs, i, o]`` and ``[runs, 1, o]``."""
    if bias is None:
        bias = weight.new_zeros(weight.shape[0], 1, weight.shape[2])
    if x.shape[0] == 1:  # a single matrix has routines of its own; a batch of two takes the same path as any larger one
        twice: Tensor = _Affine.apply(*(y.expand(2, -1, -1) for y in (x, weight, bias)))
        return twice[:1]
    product: Tensor = _Affine.apply(x, weight, bias)
    return product


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
    weights: Tensor = gain * q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    return weights if inputs >= outputs else weights.transpose(1, 2).contiguous()
