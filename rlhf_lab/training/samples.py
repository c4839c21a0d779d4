"""What was collected, in the form in which minibatches are cut from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rlhf_lab.batch import unchecked
from rlhf_lab.types import Trajectories

__all__ = ["Samples", "taker"]


def taker(index: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """Return a function that takes rows ``index [runs, m]`` of any ``x [runs, rows, ...]``, each run from its own."""
    flat = (index + rows * torch.arange(index.shape[0], device=index.device)[:, None]).flatten()

    def take(x: Tensor) -> Tensor:
        if x.stride(0) == 0:  # all runs share the same rows, which are not to be copied for each of them
            return x[0][index.to(x.device)]
        return x.flatten(0, 1).index_select(0, flat.to(x.device)).view(*index.shape, *x.shape[2:])

    return take


@dataclass(frozen=True, eq=False)
class Samples:
    """Trajectories ``[runs, rows, t]`` and the actor's ``inputs``, tensors ``[runs, rows, ...]`` unread by the loop.

    ``stepwise`` says that every input is ``[runs, rows, t, ...]`` and its steps can be told apart (not so for a
    transformer, which needs the whole row).
    """

    trajectories: Trajectories
    inputs: Mapping[str, Tensor]
    stepwise: bool = True

    def select(self, index: Tensor) -> Samples:
        """Return the rows ``index [runs, m]``, each run from its own rows."""
        take = taker(index, self.trajectories.rewards.shape[1])
        return self._map(lambda name, x: take(x))

    def as_steps(self) -> Samples:
        """Return the same steps as rows of length one: ``[runs, rows * t, 1]``. Needs ``stepwise``."""
        steps = self.trajectories.rewards.shape[-1]

        def split(name: str, x: Tensor) -> Tensor:
            if name in ("group_ids", "baseline_scores"):
                return x.repeat_interleave(steps, dim=1)
            return x.reshape(x.shape[0], x.shape[1] * steps, 1, *x.shape[3:])

        return self._map(split)

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Samples:
        found = {f.name: getattr(self.trajectories, f.name) for f in fields(self.trajectories)}
        changed = {name: change(name, x) for name, x in found.items() if x is not None}
        inputs = {name: change("", x) for name, x in self.inputs.items()}
        return Samples(unchecked(self.trajectories, changed), inputs, self.stepwise)
