"""Two chains from Sutton and Barto 2018: the random walk and the short corridor."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.training.finite import FiniteWorld
from rlhf_lab.worlds.tabular import TabularMDP

__all__ = ["RandomWalk", "ShortCorridor"]


def _chain(states: int) -> tuple[Tensor, Tensor]:
    """Return an empty ``transition [s,a,s']`` of two actions and the number of each state."""
    return torch.zeros(states, 2, states, dtype=torch.float64), torch.arange(states)


class RandomWalk(FiniteWorld):
    """A chain of states; an episode starts in the middle and pays only where it leaves the chain, on either side.

    Actions: 0 left, 1 right. State 0 and state ``states + 1`` are the terminal ends. Under the uniform policy, γ = 1
    and the default rewards v(s) = 2 s / (states + 1) - 1.

    Source: Sutton and Barto 2018, example 6.2 (5 states, rewards 0 and 1) and example 7.1 (19 states, rewards ±1).
    """

    name = "random_walk"
    reference = "Sutton and Barto 2018, examples 6.2 and 7.1"
    states: int = Field(default=19, ge=1, description="states between the ends")
    left_reward: float = Field(default=-1.0, description="reward for leaving on the left")
    right_reward: float = Field(default=1.0, description="reward for leaving on the right")

    def world(self) -> TabularMDP:
        """Return the chain with ``states + 2`` states."""
        total = self.states + 2
        transition, number = _chain(total)
        inner = number[1:-1]
        transition[inner, 0, inner - 1] = 1
        transition[inner, 1, inner + 1] = 1
        transition[[0, -1], :, [0, -1]] = 1
        reward = torch.zeros_like(transition)
        reward[1, :, 0] = self.left_reward
        reward[-2, :, -1] = self.right_reward
        start = (number == (total - 1) // 2).double()
        return TabularMDP(transition, reward, start, (number == 0) | (number == total - 1), self.gamma)

    def text(self, state: int) -> str:
        """Return the chain as a line, the walker as ``o`` and the ends as ``|``."""
        return "".join("o" if s == state else "|" if s in (0, self.states + 1) else "." for s in range(self.states + 2))


class ShortCorridor(FiniteWorld):
    """Three states in a row, the middle one with reversed actions, that look the same to a linear policy.

    Actions: 0 left, 1 right; left in state 0 stays there; right in state 2 ends. Every step pays -1, the last one too.
    Features, the same in every state: value [1], action [0, 1] for left and [1, 0] for right. Hence a linear policy has
    one probability p of right, with v(p) = -2 (2 - p) / (p (1 - p)) and the optimum v = -(6 + 4 √2) at p = 2 - √2.
    The observation is the state number: a tabular policy sees the states apart and reaches -3.

    Source: Sutton and Barto 2018, example 13.1.
    """

    name = "short_corridor"
    reference = "Sutton and Barto 2018, example 13.1"

    def world(self) -> TabularMDP:
        """Return the corridor; state 3 is the goal."""
        transition, number = _chain(4)
        for state, (left, right) in enumerate([(0, 1), (2, 0), (1, 3), (3, 3)]):
            transition[state, 0, left] = 1
            transition[state, 1, right] = 1
        reward = torch.full_like(transition, -1)
        reward[3] = 0
        return TabularMDP(transition, reward, (number == 0).double(), number == 3, self.gamma)

    def features(self) -> tuple[Tensor, Tensor]:
        """Return the features that make the states indistinguishable."""
        return torch.ones(4, 1), torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(4, 2, 2).contiguous()

    def text(self, state: int) -> str:
        """Return the corridor as a line, the walker as ``o``, the reversed state as ``~`` and the goal as ``G``."""
        return "".join("o" if s == state else mark for s, mark in enumerate(".~.G"))
