"""Many games at once, one tensor per quantity: a step is a few gathers from the tables of an exact world.

Requirements this file meets:
- the shape of the games is free, such as ``[seed, env]``, and so is the device;
- random numbers are handed in, so that the caller decides what they depend on;
- the tables are those of the exact world, so that what is sampled is what is known;
- on the CPU compiled code plays them, elsewhere gathers of whole tensors do; both give the same bits.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.compiled_games import CompiledGames
from rlhf_lab_chess.game_tables import game_tables
from rlhf_lab_chess.tensor_games import TensorGames

__all__ = ["Games", "Played", "Rules"]


class Played(NamedTuple):
    """What one step of all games gave, each of the games' shape."""

    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    states: Tensor  # behind the step, before any new game
    answers: Tensor  # which of the position's replies was given


class Rules(Protocol):
    """How games go on, by either implementation; see ``Games``. Nothing is written into what is handed in."""

    def begin(self, state: Tensor, age: Tensor, uniforms: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Return state and age with new games in the places of the bool tensor ``where``."""
        ...

    def legal(self, state: Tensor) -> Tensor: ...

    def step(self, state: Tensor, age: Tensor, limit: int, actions: Tensor, uniforms: Tensor) -> tuple[Tensor, ...]:
        """Return the fields of ``Played``, and the age."""
        ...


class Games:
    """Games in progress: ``state`` int64 and ``age``, how many moves white has made, both of the same free shape.

    ``limit``: a game is truncated after so many of white's moves. ``compiled``: whether compiled code plays them, which
    runs on the CPU only; None: by the device. Nothing is checked here: an illegal action gives nonsense, and so does a
    step in a game that is over.
    """

    def __init__(
        self,
        world: TurnWorld,
        shape: tuple[int, ...],
        limit: int,
        device: torch.device | str = "cpu",
        compiled: bool | None = None,
    ) -> None:
        self.limit = limit
        self.state = torch.zeros(shape, dtype=torch.int64, device=device)
        self.age = torch.zeros_like(self.state)
        tables = game_tables(world)
        compiled = self.state.device.type == "cpu" if compiled is None else compiled
        self._rules: Rules = CompiledGames(tables) if compiled else TensorGames(tables, device)

    def beside(self, shape: tuple[int, ...]) -> Games:
        """Return other games of the same world, which share its tables."""
        other = copy.copy(self)
        other.state = self.state.new_zeros(shape)
        other.age = torch.zeros_like(other.state)
        return other

    def begin(self, uniforms: Tensor, where: Tensor | None = None) -> None:
        """Begin new games in all places, or in those of the bool tensor ``where``, by numbers in (0, 1)."""
        where = torch.ones_like(self.state, dtype=torch.bool) if where is None else where
        self.state, self.age = self._rules.begin(self.state, self.age, uniforms, where)

    def legal(self) -> Tensor:
        """Return which actions are legal, bool ``[..., actions]``; none where a game is over."""
        return self._rules.legal(self.state)

    def step(self, actions: Tensor, uniforms: Tensor) -> Played:
        """Play ``actions`` and the answers that ``uniforms`` in (0, 1) choose; no game begins anew by itself."""
        *played, self.age = self._rules.step(self.state, self.age, self.limit, actions, uniforms)
        found = Played(*played)
        self.state = found.states
        return found
