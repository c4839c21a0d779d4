"""Passes over data in minibatches, each pass in an order of its own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates

__all__ = ["Epochs"]


@numba.njit(cache=True)
def _shuffle(order: Any, uniforms: Any) -> None:
    """Shuffle each row of ``order [runs, n]`` in place: Fisher and Yates as in Knuth's algorithm P, from the end on."""
    runs, rows = order.shape
    for run in range(runs):
        for last in range(rows - 1, 0, -1):
            other = int(uniforms[run, last] * (last + 1))
            order[run, last], order[run, other] = order[run, other], order[run, last]


class Epochs:
    """Deals all rows into ``ceil(rows / size)`` minibatches per pass, without replacement.

    Their sizes differ by one at most, so that no pass ends with a small one: 1000 rows in minibatches of at most 256
    are four of 250. A pass's order depends on the run's seed and the pass's number alone. With ``size`` None, or where
    all rows fit into one minibatch, every minibatch is all rows in their own order.
    """

    def __init__(self, rows: int, size: int | None, streams: Streams) -> None:
        self.rows = rows
        self.count = 1 if size is None else -(-rows // size)  # minibatches per pass
        self._streams = streams
        self._order: tuple[int, Tensor] | None = None  # the pass that was last asked for, and its order [runs, rows]

    @property
    def smallest(self) -> int:
        """How many rows the smallest minibatch has."""
        return self.rows // self.count

    def index(self, number: int) -> Tensor | None:
        """Return the rows ``[runs, m]`` of minibatch ``number``, counted over all passes; None where it is all rows."""
        if self.count == 1:
            return None
        epoch, part = divmod(number, self.count)
        if self._order is None or self._order[0] != epoch:
            order = np.tile(np.arange(self.rows), (self._streams.runs, 1))
            _shuffle(order, self._streams.uniforms(epoch, self.rows).numpy())
            self._order = epoch, torch.from_numpy(order)
        return self._order[1][:, self.rows * part // self.count : self.rows * (part + 1) // self.count]

    def batch(self, candidates: Candidates, number: int) -> Candidates:
        """Return minibatch ``number`` of the candidates."""
        index = self.index(number)
        return candidates if index is None else candidates.select(index)
