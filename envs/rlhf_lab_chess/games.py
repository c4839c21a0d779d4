"""Many games at once, one tensor per quantity: a step is a few gathers from the tables of an exact world.

Requirements this file meets:
- the shape of the games is free, such as ``[seed, env]``, and so is the device;
- random numbers are handed in, so that the caller decides what they depend on;
- the tables are those of the exact world, so that what is sampled is what is known.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_lab.worlds.turns import TurnWorld

__all__ = ["Games", "Played"]


class Played(NamedTuple):
    """What one step of all games gave, each of the games' shape."""

    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    states: Tensor  # behind the step, before any new game
    answers: Tensor  # which of the position's replies was given


class Games:
    """Games in progress: ``state`` int64 and ``age``, how many moves white has made, both of the same free shape.

    ``limit``: a game is truncated after so many of white's moves. Nothing is checked here: an illegal action gives
    nonsense, and so does a step in a game that is over.
    """

    def __init__(
        self, world: TurnWorld, shape: tuple[int, ...], limit: int, device: torch.device | str = "cpu"
    ) -> None:
        self.limit = limit
        self._width, self._answers = world.moves.shape[1], world.replies.shape[1]
        self._moves = world.moves.flatten().to(device).long()
        self._replies = world.replies.flatten().to(device).long()
        possible = world.chances > 0
        # 2, so that no rounding leads past the last answer that may come
        last = possible.flip(-1).cumsum(-1).flip(-1) == possible
        self._cumulative = world.chances.cumsum(-1).masked_fill(last, 2).to(device)
        self._own = world.own_rewards.flatten().to(device)
        self._answered = world.reply_rewards.flatten().to(device)
        self._legal = world.legal.to(device)
        self._terminal = world.terminal.to(device)
        self._possible = world.start.nonzero()[:, 0].to(device)
        self._starts = world.start[world.start > 0].cumsum(0).to(device)
        self._starts[-1] = 2  # likewise
        self.state = torch.zeros(shape, dtype=torch.int64, device=device)
        self.age = torch.zeros_like(self.state)

    def beside(self, shape: tuple[int, ...]) -> Games:
        """Return other games of the same world, which share its tables."""
        other = copy.copy(self)
        other.state = self.state.new_zeros(shape)
        other.age = torch.zeros_like(other.state)
        return other

    def begin(self, uniforms: Tensor, where: Tensor | None = None) -> None:
        """Begin new games in all places, or in those of the bool tensor ``where``, by numbers in (0, 1)."""
        drawn = self._possible[torch.searchsorted(self._starts, uniforms, right=True)]
        self.state = drawn if where is None else torch.where(where, drawn, self.state)
        self.age = torch.zeros_like(self.age) if where is None else self.age.masked_fill(where, 0)

    def legal(self) -> Tensor:
        """Return which actions are legal, bool ``[..., actions]``; none where a game is over."""
        legal: Tensor = self._legal[self.state]
        return legal

    def step(self, actions: Tensor, uniforms: Tensor) -> Played:
        """Play ``actions`` and the answers that ``uniforms`` in (0, 1) choose; begin anew where a game has ended."""
        pair = self.state * self._width + actions
        position = self._moves[pair]
        answer = (self._cumulative[position] <= uniforms[..., None]).sum(-1)
        branch = position * self._answers + answer
        self.state = self._replies[branch]
        self.age = self.age + 1
        terminated = self._terminal[self.state]
        truncated = ~terminated & (self.age >= self.limit)
        return Played(self._own[pair] + self._answered[branch], terminated, truncated, self.state, answer)
