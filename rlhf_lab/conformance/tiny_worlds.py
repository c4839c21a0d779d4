"""Random tiny worlds whose every episode is enumerated, as cases for claims about expectations.

Their states are left at once and for good, so that every episode ends within the horizon and the truth of finite and
infinite horizon agree.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lab.conformance.strategies import numbers, table
from rlhf_lab.worlds import TabularMDP

__all__ = ["World", "mdp_of", "reference_world", "tiny_worlds"]

World = Mapping[str, Tensor]  # transition, reward, policy, behaviour, critic


@st.composite
def tiny_worlds(draw: st.DrawFn, states: int = 3) -> World:
    """Draw a world: state i leads to later ones only, the last of which ends the episode; two actions everywhere.

    Probabilities and rewards are dyadic; the critic is any table, the behaviour any policy of full support.
    """
    parts = table(draw, (1.0, 0.5, 0.25, 0.75, 0.0), states * 2, states).view(states, 2, states)
    transition = torch.zeros(states + 1, 2, states + 1, dtype=torch.float64)
    for state in range(states):
        left = torch.ones(2, dtype=torch.float64)
        for after in range(state + 1, states):
            transition[state, :, after] = left * parts[state, :, after - 1]
            left = left - transition[state, :, after]
        transition[state, :, states] = left
    transition[states, :, states] = 1
    chances = (0.5, 0.25, 0.75, 0.125)
    first = table(draw, chances, states + 1, 2)[:, :1]
    other = table(draw, chances, states + 1, 2)[:, :1]
    return {
        "transition": transition,
        "reward": table(draw, numbers(2), states + 1, 2 * (states + 1)).view(states + 1, 2, states + 1),
        "policy": torch.cat([first, 1 - first], dim=1),
        "behaviour": torch.cat([other, 1 - other], dim=1),
        "critic": table(draw, numbers(2), 1, states + 1)[0],
    }


def mdp_of(world: World, gamma: float) -> TabularMDP:
    """Return the world with a discount."""
    states = len(world["critic"])
    at = torch.arange(states)
    return TabularMDP(world["transition"], world["reward"], (at == 0).double(), at == states - 1, gamma)


def reference_world() -> World:
    """Return a world of two steps with a wrong critic, to measure what is not claimed."""
    transition = torch.zeros(4, 2, 4, dtype=torch.float64)
    transition[0, 0, 1:3] = torch.tensor([0.75, 0.25])
    transition[0, 1, 1:3] = torch.tensor([0.25, 0.75])
    transition[1:3, :, 3] = 1
    transition[3, :, 3] = 1
    reward = torch.zeros(4, 2, 4, dtype=torch.float64)
    reward[0, 0, 1:3], reward[0, 1, 1:3] = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.25])
    reward[1, :, 3], reward[2, :, 3] = torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.0])
    policy = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    critic = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64)
    behaviour = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
    return {"transition": transition, "reward": reward, "policy": policy, "behaviour": behaviour, "critic": critic}
