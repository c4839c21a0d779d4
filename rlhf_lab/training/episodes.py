"""Returns and lengths of the episodes that end in a batch, also where episodes reach over several windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab.types import Trajectories

__all__ = ["EpisodeMeter"]


@numba.njit(cache=True)
def _count(rewards: Any, ends: Any, valid: Any, carry: Any, totals: Any) -> None:
    """Add [return, length, episodes, steps] of finished episodes to ``totals [4, runs]``; ``carry [runs, rows, 2]``."""
    runs, rows, steps = rewards.shape
    for run in range(runs):
        for row in range(rows):
            score, length = carry[run, row, 0], carry[run, row, 1]
            for t in range(steps):
                if not valid[run, row, t]:
                    continue
                score += rewards[run, row, t]
                length += 1
                totals[3, run] += 1
                if ends[run, row, t]:
                    totals[0, run] += score
                    totals[1, run] += length
                    totals[2, run] += 1
                    score = length = 0.0
            carry[run, row, 0], carry[run, row, 1] = score, length


class EpisodeMeter:
    """Counts steps and episodes per run, and averages the undiscounted returns of the episodes that end in a batch."""

    def __init__(self, runs: int) -> None:
        self.steps = torch.zeros(runs, dtype=torch.float64)
        self.episodes = torch.zeros(runs, dtype=torch.float64)
        self.scores = torch.zeros(runs, dtype=torch.float64)  # sum of all episodes' returns so far
        self._carry = np.zeros((runs, 0, 2))
        self._counting: Tensor | None = None

    def rest(self, resting: Tensor) -> None:
        """Count no more for these runs ``[runs]``."""
        self._counting = ~resting

    def add(self, batch: Trajectories) -> dict[str, Tensor]:
        """Count ``batch [runs, rows, t]``; return ``episode_return`` and ``episode_length``, NaN where no episode ends.

        A row continues the previous batch's row where the number of rows is the same.
        """
        runs, rows, _ = batch.rewards.shape
        if self._carry.shape[1] != rows:
            self._carry = np.zeros((runs, rows, 2))
        totals = np.zeros((4, runs))
        ends = batch.terminated | batch.truncated
        _count(batch.rewards.double().cpu().numpy(), ends.cpu().numpy(), batch.valid.cpu().numpy(), self._carry, totals)
        if self._counting is not None:
            totals *= self._counting.numpy()
        score, length, episodes, steps = torch.from_numpy(totals).unbind()
        self.steps += steps
        self.episodes += episodes
        self.scores += score
        return {"episode_return": score / episodes, "episode_length": length / episodes}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counters as tensors."""
        return {
            "steps": self.steps,
            "episodes": self.episodes,
            "scores": self.scores,
            "carry": torch.from_numpy(self._carry),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.steps, self.episodes, self.scores = (state[k].clone() for k in ("steps", "episodes", "scores"))
        self._carry = state["carry"].numpy().copy()
