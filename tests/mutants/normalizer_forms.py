"""Right normalizers in another form, whose parts mutants override: each pair of steps is compared."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories

__all__ = ["Grouped", "Standardised"]


def episodes(batch: Trajectories) -> Tensor:
    """Return a label for the episode of each step, ``[rows * t]``."""
    ends = batch.terminated | batch.truncated
    rows = torch.arange(ends.shape[0])[:, None] * (ends.shape[1] + 1)
    return (ends.cumsum(-1) - ends.long() + rows).flatten()


class Standardised(AdvantageNormalizer):
    """A right form: pairs of steps are compared, those that are normalised together are ``together``."""

    over: Literal["steps", "episodes"] = "steps"
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-8, ge=0)

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        x = advantages.advantages
        counts = self.counted(batch).flatten()
        together = self.together(batch) & counts[:, None] & counts[None, :]
        weights = self.weights(batch).flatten() * together  # [step, step] what each counts for each
        answer = self.scaled(x.double().flatten(), weights, weights.sum(1).clamp(min=1e-300))
        return self.answered(batch, advantages, answer.masked_fill(~counts, 0).view(x.shape).to(x.dtype))

    def answered(self, batch: Trajectories, advantages: Advantages, found: Tensor) -> Advantages:
        return Advantages(found, advantages.returns)

    def counted(self, batch: Trajectories) -> Tensor:
        return batch.valid

    def together(self, batch: Trajectories) -> Tensor:
        steps = batch.valid.numel()
        return torch.ones(steps, steps, dtype=torch.bool)

    def weights(self, batch: Trajectories) -> Tensor:
        if self.over == "steps":
            return batch.valid.double()
        labels = episodes(batch)
        lengths = ((labels[:, None] == labels[None, :]) & batch.valid.flatten()).sum(1).clamp(min=1)
        return batch.valid / lengths.view(batch.valid.shape).double()

    def scaled(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        distance = x - self.centre(x, weights, sizes)
        return torch.where(self.scale(x, weights, sizes) > 0, distance / (self.scale(x, weights, sizes) + self.eps), 0)

    def centre(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        return (weights * x).sum(1) / sizes

    def scale(self, x: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        apart = weights * (x[None, :] - ((weights * x).sum(1) / sizes)[:, None]).square()
        deviation = (apart.sum(1) / (sizes - self.ddof).clamp(min=1)).sqrt()
        equal = self.spread(x, weights) == 0
        return deviation.masked_fill(equal | (sizes <= self.ddof), 0)

    @staticmethod
    def spread(x: Tensor, weights: Tensor) -> Tensor:
        highest = x.expand(weights.shape).masked_fill(weights == 0, -torch.inf).amax(1)
        return highest - x.expand(weights.shape).masked_fill(weights == 0, torch.inf).amin(1)


class Grouped(Standardised):
    """The same within groups."""

    requires = frozenset({"group_ids"})
    scope = "group"

    def together(self, batch: Trajectories) -> Tensor:
        labels = self.labels(batch)[:, None].expand(batch.valid.shape).flatten()
        return labels[:, None] == labels[None, :]

    def labels(self, batch: Trajectories) -> Tensor:
        assert batch.group_ids is not None
        return batch.group_ids
