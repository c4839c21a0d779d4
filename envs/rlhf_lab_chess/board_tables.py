"""The exact world of an environment component as tables of games, and the ids of its moves.

Requirements this file meets:
- environments of equal arguments share one set of tables, so that many of them cost no more than one;
- from id to slot by what leaves which man's square in which way, so that nothing is searched for.
"""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numba
import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.compiled_games import draw, follow
from rlhf_lab_chess.ending import OVER, STALEMATE
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.game_tables import game_tables
from rlhf_lab_chess.states import action_ids
from rlhf_lab_chess.successors import KING_SLOTS

__all__ = ["BoardTables", "as_masks"]

Numbers = NDArray[np.integer[Any]]


class BoardTables:
    """What a step needs: ``ids [w,slots]`` of moves, ``terminal [states]``, and ``why [states]`` a game is over there.

    ``why`` is 0 where it goes on, and 1 + the number of its end in ``OVER``.
    """

    _shared: ClassVar[WeakValueDictionary[EndingEnvironment, BoardTables]] = WeakValueDictionary()

    @classmethod
    def of(cls, component: EndingEnvironment) -> BoardTables:
        """Return the tables of a component, the same ones while somebody has them."""
        found = cls._shared.get(component)
        if found is None:
            found = cls._shared[component] = cls(component)
        return found

    def __init__(self, component: EndingEnvironment) -> None:
        self.ending = component.ending()
        self._tables = game_tables(component.world())
        self.terminal = self._tables.terminal
        # besides the last three states only those are ends in which the side with the man has no move
        self.why = np.where(self.terminal, 1 + STALEMATE, 0)
        self.why[-len(OVER) :] = 1 + np.arange(len(OVER))
        self.ids = action_ids(self.ending)
        self._by_plane = np.full((len(self.ending.men), 2, self.ending.board.planes), -1, dtype=np.int64)
        for slot, ids in enumerate(self.ids.T):
            legal = ids >= 0
            kinds, planes = self.ending.white_man[legal], ids[legal] % self.ending.board.planes
            self._by_plane[kinds, int(slot >= KING_SLOTS), planes] = slot

    def draw_starts(self, uniforms: NDArray[np.float64]) -> Numbers:
        """Return the states that numbers in [0, 1) choose."""
        states, ages = np.empty(len(uniforms), dtype=np.int64), np.empty(len(uniforms), dtype=np.int64)
        everywhere = np.ones(len(uniforms), dtype=np.bool_)
        draw(self._tables.starts, self._tables.start_bounds, uniforms, everywhere, states, ages)
        return states

    def slots(self, states: Numbers, ids: Numbers) -> Numbers:
        """Return the slot of each id ``[n]`` in its state, -1 where it is not legal."""
        origin, plane = np.divmod(ids, self.ending.board.planes)
        own = self.ending.white[states, :2]
        # a move from elsewhere is read as the man's, and is none of the legal ids; nor is one without a slot
        slots = self._by_plane[self.ending.white_man[states], (origin != own[:, 0]).astype(np.intp), plane]
        legal = self.ids[states, slots] == ids
        return np.where(legal, slots, -1)

    def step(
        self, states: Numbers, slots: Numbers, uniforms: NDArray[np.float64]
    ) -> tuple[Numbers, NDArray[np.float64]]:
        """Return the states behind ``slots [n]`` and the answers to them, and what was paid."""
        rewards, (after, answers) = np.empty(len(states)), np.empty((2, len(states)), dtype=np.int64)
        moves, replies, own, *_ = self._tables
        follow(moves, replies, own, states, slots, uniforms, rewards, after, answers)
        return after, rewards


def as_masks(ids: NDArray[np.int16], actions: int) -> NDArray[np.int8]:
    """Return 1 for the actions whose ids are in ``ids [n,slots]``, -1 being none, as ``[n,actions]``."""
    masks = np.zeros((len(ids), actions), dtype=np.int8)
    _mark(ids, masks)
    return masks


@numba.njit(cache=True)
def _mark(ids: Any, masks: Any) -> None:
    for row in range(ids.shape[0]):
        for slot in range(ids.shape[1]):
            if ids[row, slot] >= 0:
                masks[row, ids[row, slot]] = 1
