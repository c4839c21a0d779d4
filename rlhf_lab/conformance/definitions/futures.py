"""What follows each step of a batch: the form in which advantages are defined, episode by episode.

A future is read off one step of an episode: the rewards from there on, the critic's values of the states behind each
of them, and the last of those values, which is 0 after a termination and ``next_values`` otherwise. Nothing is computed
from the step behind it, so that no recursion of an implementation is repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_lab.conformance.inputs import segments
from rlhf_lab.types import Trajectories

__all__ = ["Future", "futures"]


@dataclass(frozen=True)
class Future:
    """What follows one step, the step included."""

    row: int
    step: int
    steps: tuple[int, ...]
    rewards: tuple[float, ...]
    cut: bool  # the episode goes on behind the last step, unseen
    values: tuple[float, ...] = ()  # V(s) of each state from the step on, and of the state behind the last step

    def n_step(self, gamma: float, n: int) -> float:
        """Return n rewards (fewer at the end) and the critic's value behind them, minus the critic's value."""
        n = min(n, len(self.rewards))
        paid = math.fsum(gamma**i * self.rewards[i] for i in range(n))
        return paid + gamma**n * self.values[n] - self.values[0]

    def errors(self, gamma: float) -> list[float]:
        """Return the temporal-difference error of each step."""
        pairs = zip(self.rewards, self.values[:-1], self.values[1:], strict=True)
        return [reward + gamma * after - before for reward, before, after in pairs]


def futures(batch: Trajectories) -> Iterator[Future]:
    """Yield the future of every valid step."""
    rewards = batch.rewards.tolist()
    values = None if batch.values is None else batch.values.tolist()
    behind = None if batch.next_values is None else batch.next_values.tolist()
    for episode in segments(batch):
        row, last, cut = episode.row, episode.steps[-1], episode.end != "terminated"
        for i, step in enumerate(episode.steps):
            rest = episode.steps[i:]
            seen = tuple(values[row][t] for t in rest) if values else ()
            after = behind[row][last] if cut and behind else 0.0
            yield Future(row, step, rest, tuple(rewards[row][t] for t in rest), cut, (*seen, after))
