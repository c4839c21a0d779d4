"""Responses drawn from a distribution over them, one row of candidates after another."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["draw_responses"]


def draw_responses(log_weights: Tensor, prompts: Tensor, uniforms: Tensor, distinct: bool) -> Tensor:
    """Return responses ``[runs, rows, k]`` to ``prompts [runs, rows]``, drawn by ``uniforms [runs, rows, k]``.

    ``log_weights [runs, x, y]`` is the log of a distribution up to a constant, -inf for what is never drawn. Without
    ``distinct`` the k responses are independent. With it they differ, and come in the order of their numbers: a set S
    has a probability in proportion to Π_{y in S} w(y), as if rows with equal responses had been thrown away.
    """
    drawn = np.empty(uniforms.shape, dtype=np.int64)
    _draw(log_weights.numpy(), prompts.numpy(), uniforms.numpy(), distinct, drawn)
    return torch.from_numpy(drawn)


@numba.njit(cache=True)
def _draw(log_weights: Any, prompts: Any, uniforms: Any, distinct: bool, drawn: Any) -> None:
    runs, count, responses = log_weights.shape
    rows, candidates = drawn.shape[1], drawn.shape[2]
    most = candidates if distinct else 1
    # log e_k of the weights from y on, where e_k = Σ_{|S| = k} Π_{y in S} w(y): e_k(y) = e_k(y+1) + w(y) e_{k-1}(y+1)
    sums = np.empty((most + 1, responses + 1))
    for run in range(runs):
        for prompt in range(count):
            sums[:, responses] = -np.inf
            sums[0] = 0.0
            for y in range(responses - 1, -1, -1):
                for k in range(1, most + 1):
                    sums[k, y] = np.logaddexp(sums[k, y + 1], log_weights[run, prompt, y] + sums[k - 1, y + 1])
            for row in range(rows):
                if prompts[run, row] != prompt:
                    continue
                first = 0
                for j in range(candidates):
                    k = candidates - j if distinct else 1
                    # the next one is beyond y with probability e_k(y+1) / e_k(first)
                    level = sums[k, first] + np.log(uniforms[run, row, j])
                    low, high = first, responses - 1
                    while low < high:
                        middle = (low + high) // 2
                        if sums[k, middle + 1] < level:
                            high = middle
                        else:
                            low = middle + 1
                    drawn[run, row, j] = low
                    first = low + 1 if distinct else 0
