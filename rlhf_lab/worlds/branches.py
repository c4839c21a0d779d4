"""The sparse form of a finite world: what may follow each state and action, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Branches"]


@dataclass(frozen=True, eq=False)
class Branches:
    """Everything that may happen in one step, sorted by pair (state, action) and then by following state.

    A pair's number is ``state * actions + action``; its branches are those from ``offsets[pair]`` up to
    ``offsets[pair + 1]``, none where the action is never taken (at terminal states). ``rewards`` are the expected
    rewards of a step and may have leading axes, one world per run.
    """

    offsets: Tensor  # [s * a + 1] int64
    successors: Tensor  # [n] int64 following states
    probabilities: Tensor  # [n] float64
    rewards: Tensor  # [*b,n] float64

    @classmethod
    def from_tables(cls, transition: Tensor, reward: Tensor) -> Branches:
        """Return the branches of ``transition [s,a,s']`` and ``reward [*b,s,a,s']`` that have a probability."""
        states, actions, _ = transition.shape
        source, action, successor = branches = transition.nonzero(as_tuple=True)
        counts = torch.bincount(source * actions + action, minlength=states * actions)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(offsets, successor, transition[branches], reward[..., source, action, successor])

    @property
    def pairs(self) -> Tensor:
        """The pair of each branch, ``[n]``."""
        return torch.repeat_interleave(self.offsets.diff())
