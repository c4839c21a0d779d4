"""Gymnasium's environments with a transition table as exact worlds."""

from __future__ import annotations

from typing import Any

import gymnasium
from pydantic import Field

from rlhf_lab.errors import LabError
from rlhf_lab.training.adapter import making
from rlhf_lab.training.finite import MAX_STEPS, FiniteWorld
from rlhf_lab.worlds.tabular import TabularMDP

__all__ = ["TransitionTable"]


class TransitionTable(FiniteWorld):
    """Any Gymnasium environment whose ``unwrapped.P`` is its transition table: FrozenLake, CliffWalking, Taxi.

    The steps are simulated from the table, not by the environment. States keep their numbers; a state that is both
    entered and an end (Taxi) has a terminal copy behind them. Raises ``LabError`` where the environment has no table.
    """

    name = "transition_table"
    reference = "Towers et al. 2024, Gymnasium, toy text environments"
    id: str = Field(default="FrozenLake-v1", description="Gymnasium's id; `module:id` imports the module first")
    kwargs: dict[str, Any] = Field(default={}, description="keyword arguments of the environment")

    def world(self) -> TabularMDP:
        """Return the table as a world."""
        with making(self.id, self.kwargs):
            env = gymnasium.make(self.id, **self.kwargs)
        table = getattr(env.unwrapped, "P", None)
        start = getattr(env.unwrapped, "initial_state_distrib", None)
        env.close()
        if not isinstance(table, dict):
            raise LabError(
                f"environment.id: {self.id!r} has no transition table (attribute P), so its truth is not known. "
                "Use the environment 'gymnasium' to train on it"
            )
        return TabularMDP.from_gymnasium(table, start, self.gamma)

    def step_limit(self) -> int:
        """Return ``max_steps``, else the registered limit."""
        return self.max_steps or gymnasium.spec(self.id.rpartition(":")[2]).max_episode_steps or MAX_STEPS
