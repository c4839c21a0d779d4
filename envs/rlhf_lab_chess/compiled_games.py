"""Steps of many games on the CPU: compiled code that runs game by game over the tables of their world.

The tables are far larger than the processor's caches, so that a step mostly waits for memory. Each loop therefore asks
for one place of the large tables only, which lets the processor fetch those of many games at a time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab_chess.game_tables import GameTables

__all__ = ["CompiledGames", "draw", "follow"]


class CompiledGames:
    """See ``Rules`` in ``games``; tensors of any shape on the CPU."""

    def __init__(self, tables: GameTables) -> None:
        self._tables = tables

    def begin(self, state: Tensor, age: Tensor, uniforms: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        states, ages = state.numpy().copy(), age.numpy().copy()
        starts = self._tables.starts, self._tables.start_bounds
        draw(*starts, _flat(uniforms), _flat(where), states.reshape(-1), ages.reshape(-1))
        return torch.from_numpy(states), torch.from_numpy(ages)

    def legal(self, state: Tensor) -> Tensor:
        # NumPy copies whole rows, torch's indexing numbers
        return torch.from_numpy(self._tables.legal.take(state.numpy(), axis=0))

    def step(self, state: Tensor, age: Tensor, limit: int, actions: Tensor, uniforms: Tensor) -> tuple[Tensor, ...]:
        count, (moves, replies, own, _, terminal, *_) = state.numel(), self._tables
        rewards, (terminated, truncated) = np.empty(count), np.empty((2, count), dtype=np.bool_)
        after, answers, ages = np.empty((3, count), dtype=np.int64)
        _play(
            moves, replies, own, terminal, limit, _flat(state), _flat(age), _flat(actions), _flat(uniforms),
            rewards, terminated, truncated, after, answers, ages,
        )  # fmt: skip
        found, shape = (rewards, terminated, truncated, after, answers, ages), tuple(state.shape)
        return tuple(torch.from_numpy(x.reshape(shape)) for x in found)


def _flat(x: Tensor) -> Any:
    return np.ascontiguousarray(x.numpy()).reshape(-1)


# arrays one by one, since a tuple of them costs more to hand over than all of the games do


@numba.njit(cache=True)
def draw(starts: Any, bounds: Any, uniforms: Any, where: Any, states: Any, ages: Any) -> None:
    """Set ``states`` to those of ``starts`` that ``uniforms`` choose, ``ages`` to 0, in places ``where``; ``[n]``."""
    for i in range(len(states)):
        if where[i]:
            # where all are equally likely this is the place, or one beside it by rounding
            place = min(int(uniforms[i] * len(bounds)), len(bounds) - 1)
            if bounds[place] <= uniforms[i] or (place > 0 and bounds[place - 1] > uniforms[i]):
                place = np.searchsorted(bounds, uniforms[i], side="right")
            states[i], ages[i] = starts[place], 0


@numba.njit(cache=True)
def follow(
    moves: Any, replies: Any, own: Any, states: Any, actions: Any, uniforms: Any, rewards: Any, after: Any, answers: Any
) -> None:
    """Set ``rewards``, the states ``after`` and the ``answers`` to what actions and uniforms lead to; ``[n]``."""
    for i in range(len(states)):
        answers[i] = moves[states[i], actions[i]]  # the position, for now
        rewards[i] = own[states[i], actions[i]] if len(own) else 0.0
    for i in range(len(states)):
        position, answer = answers[i], 0
        while replies[position, 0, answer] <= uniforms[i]:
            answer += 1
        after[i] = int(replies[position, 1, answer])
        rewards[i] += replies[position, 2, answer]
        answers[i] = answer


@numba.njit(cache=True)
def _play(
    moves: Any, replies: Any, own: Any, terminal: Any, limit: int,
    states: Any, ages: Any, actions: Any, uniforms: Any,
    rewards: Any, terminated: Any, truncated: Any, after: Any, answers: Any, grown: Any,
) -> None:  # fmt: skip
    """Do as ``follow`` does, and tell where games end, where they are cut short, and how old they have grown."""
    follow(moves, replies, own, states, actions, uniforms, rewards, after, answers)
    for i in range(len(states)):
        grown[i] = ages[i] + 1
        terminated[i] = terminal[after[i]]
        truncated[i] = (not terminated[i]) & (grown[i] >= limit)
