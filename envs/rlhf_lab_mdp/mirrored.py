"""Two steps whose rewards cancel: the counterexample to "variance grows with lambda"."""

from __future__ import annotations

import torch

from rlhf_lab.training.finite import FiniteWorld
from rlhf_lab.worlds.tabular import TabularMDP

__all__ = ["MirroredRewards"]


class MirroredRewards(FiniteWorld):
    """The first step pays +1 or -1 by a fair coin, the second step takes it back, and the episode ends.

    Both actions do the same, so every policy has return 0. With the critic V = 0 and γ = 1 the first step's GAE is
    (1 - λ) r₀: its variance (1 - λ)² falls as λ grows, from 1 at λ = 0 to 0 at λ = 1.
    """

    name = "mirrored_rewards"

    def world(self) -> TabularMDP:
        """Return the world: 0 the start, 1 after +1, 2 after -1, 3 the end."""
        transition = torch.zeros(4, 2, 4, dtype=torch.float64)
        transition[0, :, [1, 2]] = 0.5
        transition[1:, :, 3] = 1
        reward = torch.zeros_like(transition)
        reward[0, :, 1], reward[0, :, 2] = 1, -1
        reward[1, :, 3], reward[2, :, 3] = -1, 1
        number = torch.arange(4)
        return TabularMDP(transition, reward, (number == 0).double(), number == 3, self.gamma)

    def text(self, state: int) -> str:
        """Return where the walker is: the start, the paid or the owing side, or the end."""
        return ("start", "paid +1", "paid -1", "end")[state]
