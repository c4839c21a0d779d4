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
        moves, replies, own, _, terminal, *_ = self._tables
        shape = tuple(state.shape)
        rewards, flags, numbers = np.empty(shape), np.empty((2, *shape), np.bool_), np.empty((3, *shape), np.int64)
        _play(
            moves, replies, own, terminal, limit, _flat(state), _flat(age), _flat(actions), _flat(uniforms),
            rewards.reshape(-1), flags.reshape(2, -1), numbers.reshape(3, -1),
        )  # fmt: skip
        return torch.from_numpy(rewards), *torch.from_numpy(flags).unbind(), *torch.from_numpy(numbers).unbind()


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
    states: Any, ages: Any, actions: Any, uniforms: Any, rewards: Any, flags: Any, numbers: Any,
) -> None:  # fmt: skip
    """Do as ``follow`` does, and tell what follows from it, all ``[n]``.

    ``flags [2,n]``: where games end, where they are cut short; ``numbers [3,n]``: states, answers, how old games are.
    """
    after, answers, grown = numbers[0], numbers[1], numbers[2]
    follow(moves, replies, own, states, actions, uniforms, rewards, after, answers)
    for i in range(len(states)):
        grown[i] = ages[i] + 1
        flags[0, i] = terminal[after[i]]
        flags[1, i] = (not flags[0, i]) & (grown[i] >= limit)
