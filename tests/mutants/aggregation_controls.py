"""Right aggregations in another form."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights

__all__ = ["FinishedOnly", "LoopedSequenceMean", "TotalsAtTheEnd"]


class LoopedSequenceMean(Aggregation):
    """Right: row by row, in float32, and every number times 3."""

    name = "looped_sequence_mean"
    implements = "sequence_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        weights = torch.zeros(valid.shape)
        for row in range(weights[..., 0].numel() if weights.numel() else 0):
            counts, stops = valid.flatten(0, -2)[row], ends.flatten(0, -2)[row]
            start = 0
            for stop in [*stops.nonzero().flatten().tolist(), len(stops) - 1]:
                part = counts[start : stop + 1]
                weights.view(-1, len(stops))[row, start : stop + 1] = 3 * part / part.sum().clamp(min=1)
                start = stop + 1
        return Weights(weights, weights)


class TotalsAtTheEnd(Aggregation):
    """Right: a sequence's total stands on its last step, and weights are divided by the length."""

    name = "totals_at_the_end"
    implements = "constant"
    length: float = Field(default=1.0, gt=0)

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        last = ends | (valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1))
        return Weights(valid.double() / self.length, last.double())


class FinishedOnly(Aggregation):
    """Right, though none of the definitions: steps of an episode that the row cuts off weigh nothing."""

    name = "finished_only"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        finished = valid & (ends.flip(-1).cumsum(-1).flip(-1) > 0)
        return Weights(finished.double(), finished.double())
