"""Training games on worlds of many positions: played by gathers, with the actor asked where it stands only.

Each random number depends on (seed, row, step, collect) alone, so that windows of 2 + 3 steps equal one of 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Actor, Size
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.stepped import Step, fill_uniforms, record
from rlhf_lab.worlds.protocol import open_actions
from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.games import Games

__all__ = ["Gathered"]


class Gathered:
    """``runs x envs`` games in progress; whole games come one per row, ``envs * count`` rows."""

    def __init__(self, world: TurnWorld, runs: int, envs: int, streams: Streams, limit: int) -> None:
        self._runs, self._envs = runs, envs
        self._keys = streams["steps"].keys
        self._collects = 0  # of whole games so far
        legal = open_actions(world)
        assert legal is not None  # a game of turns tells what is legal
        self._open = legal.numpy()
        self._rows = _Rows(Games(world, (runs, envs), limit), self._open, self._keys, 0)

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``."""
        if size.unit == "steps":
            return record(actor, self._rows, size.count)
        self._collects += 1
        games = self._rows.games.beside((self._runs, self._envs * size.count))
        return record(actor, _Rows(games, self._open, self._keys, self._collects), None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return where every game stands, and the counters of the random numbers."""
        return {
            "state": self._rows.games.state.clone(),
            "age": self._rows.games.age.clone(),
            "counts": torch.from_numpy(self._rows.counts.copy()),
            "collects": torch.tensor(self._collects),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._rows.games.state, self._rows.games.age = state["state"].clone(), state["age"].clone()
        self._rows.counts = state["counts"].numpy().copy()
        self._collects = int(state["collects"])


class _Rows:
    """Games ``[runs, rows]``; see ``Rows``. ``collect`` 0 begins anew where a game ends; others number whole games."""

    def __init__(self, games: Games, legal: Any, keys: Any, collect: int) -> None:
        self.games = games
        self.counts = np.zeros(games.state.shape, dtype=np.int64)
        self.done = torch.zeros_like(games.state, dtype=torch.bool)
        self._legal, self._keys, self._collect = legal, keys, collect
        self.games.begin(self._draw()[..., 2])

    def _draw(self) -> Tensor:
        """Return the numbers of this step: for the action, the answer, and the first position of a new game."""
        uniforms = np.empty((*self.counts.shape, 3))
        fill_uniforms(uniforms, self._keys, self.counts, self._collect)
        return torch.from_numpy(uniforms)

    def observe(self) -> tuple[Any, Any, Any]:
        self._numbers = self._draw()
        state = self.games.state.numpy()
        # take copies whole rows, indexing number by number
        return state, self._numbers[..., 0].contiguous().numpy(), self._legal.take(state, axis=0)

    def step(self, actions: Any) -> Step:
        valid = ~self.done
        before = self.games.state
        played = self.games.step(torch.from_numpy(actions), self._numbers[..., 1])
        self.counts += 1
        terminated, truncated = played.terminated & valid, played.truncated & valid
        ended = terminated | truncated
        if self._collect:
            self.games.state = torch.where(valid, played.states, before)
            self.done = self.done | ended
        elif bool(ended.any()):
            self.games.begin(self._draw()[..., 2], ended)
        found = (played.rewards * valid, terminated, truncated, valid, played.states)
        return Step(*(x.numpy() for x in found))

    def over(self) -> bool:
        return bool(self.done.all())
