"""A world of two states and two ends, small enough to be solved by hand, as an environment that studies can measure.

State 0: win at once (reward 1), go to state 1, or give up for a draw. State 1: gamble between win and draw, or go to
state 0; its third action is illegal. γ = 0.9; both states are starts, equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.training.finite import BuiltFinite, FiniteWorld
from rlhf_lab.worlds import TabularMDP

__all__ = ["BuiltToy", "Toy", "toy_world"]

WIN, DRAW = 2, 3


@dataclass(frozen=True)
class Endings:
    probability: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]


class EndingMDP(TabularMDP):
    """A table that tells how episodes end, by a sum over steps."""

    def ending(self, policy: Tensor) -> Endings:
        table = torch.einsum("...sa,sat->...st", policy, self._moves)
        present = self.start.expand(*policy.shape[:-2], -1)
        chance, steps = (torch.zeros_like(present) for _ in range(2))
        for t in range(1, 2000):
            present = torch.einsum("...s,...st->...t", present, table)
            chance = chance + present * self.terminal
            steps = steps + t * present * self.terminal
            present = present * ~self.terminal
        names = {"win": WIN, "draw": DRAW}
        return Endings(
            {name: chance[..., state] for name, state in names.items()},
            {name: steps[..., state] / chance[..., state] for name, state in names.items()},
        )


def toy_world(give_up: float = 0.0) -> EndingMDP:
    """Return the world; ``give_up`` is what a draw by choice pays."""
    transition = torch.zeros(4, 3, 4, dtype=torch.float64)
    transition[0, torch.arange(3), torch.tensor([WIN, 1, DRAW])] = 1
    transition[1, 0, [WIN, DRAW]] = 0.5
    transition[1, 1, 0] = 1
    transition[2:, :, DRAW] = 1
    reward = torch.zeros(4, 3, 4, dtype=torch.float64)
    reward[:, :, WIN] = 1
    reward[0, 2, DRAW] = give_up
    legal = torch.ones(4, 3, dtype=torch.bool)
    legal[1, 2] = False
    start = torch.tensor([0.5, 0.5, 0, 0], dtype=torch.float64)
    return EndingMDP(transition, reward, start, torch.arange(4) >= 2, 0.9, legal)


class BuiltToy(BuiltFinite):
    def paid(self) -> TabularMDP:
        return toy_world(give_up=2.0)


class Toy(FiniteWorld):
    name = "toy_endings"

    def world(self) -> EndingMDP:
        return toy_world()

    def build(self, runs: int, envs: int, streams: Any) -> BuiltToy:
        return BuiltToy(self.world(), runs, envs, streams)
