"""Linear algebra on a leading run axis, with the same bits for a run whatever runs beside it.

BLAS picks a routine by the sizes of the matrices, and routines round differently. Hence other runs must not change the
sizes, neither by their number nor by their longer episodes, to whose length all rows are padded.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf_lab.random import Streams

__all__ = ["BLOCK", "affine", "fill", "orthogonal", "take"]

BLOCK: Final = 128  # rows per product


class _Affine(torch.autograd.Function):
    """``x @ weight + bias`` and its gradients, ``BLOCK`` rows at a time; more rows of zeros change no bit of these."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        grads = _blocks(grad.contiguous())  # of one layout, hence of one routine
        by_x = _join([torch.bmm(g, weight.mT) for g in grads]) if ctx.needs_input_grad[0] else None
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = reduce(torch.add, (torch.bmm(block.mT, g) for block, g in zip(_blocks(x), grads, strict=True)))
        by_bias = reduce(torch.add, (g.sum(dim=1, keepdim=True) for g in grads))
        return by_x, by_weight, by_bias


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _join([torch.baddbmm(bias, block, weight) for block in _blocks(x)])


def _blocks(x: Tensor) -> list[Tensor]:
    return [x[:, first : first + BLOCK] for first in range(0, max(x.shape[1], 1), BLOCK)]


def _join(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight + bias`` run by run: ``[runs, n, i]``, ``[runs, i, o]`` and ``[runs, 1, o]``."""
    if bias is None:
        bias = weight.new_zeros(weight.shape[0], 1, weight.shape[2])
    if x.shape[0] == 1:  # a single matrix has routines of its own; a batch of two takes the same path as any larger one
        return _apply(*(y.expand(2, -1, -1) for y in (x, weight, bias)))[:1]
    return _apply(x, weight, bias)


def _apply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _forward(x, weight, bias)  # acting is many small calls, and a Function costs more than such a product
    product: Tensor = _Affine.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return product


def take(table: Tensor, index: Tensor) -> Tensor:
    """Return rows ``index [runs, n]`` of ``table [runs, rows, k]``, each run from its own: ``[runs, n, k]``.

    By ``gather``, because the gradient of ``table[index]`` is summed by several threads in an order that changes.
    """
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[-1]))


def fill(x: Tensor, multiple: int) -> Tensor:
    """Return ``x [runs, n, ...]`` with n filled up to a multiple by zeros or False."""
    missing = -x.shape[1] % multiple
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1) if missing else x


def orthogonal(streams: Streams, inputs: int, outputs: int, gain: float) -> Tensor:
    """Return random semi-orthogonal weights ``[runs, inputs, outputs]``, times ``gain``.

    The shorter side is orthonormal: Q of the QR factors of a normal matrix, with the signs that make the diagonal of R
    positive, so that Q is uniformly distributed and does not depend on the LAPACK in use.

    Source: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks".
    """
    long, short = max(inputs, outputs), min(inputs, outputs)
    q, r = torch.linalg.qr(streams.normals(0, long, short))
    weights: Tensor = gain * q * r.diagonal(dim1=1, dim2=2).sign()[:, None]
    oriented = weights if inputs >= outputs else weights.mT
    return oriented.contiguous()  # Q comes in columns, which every step would copy
