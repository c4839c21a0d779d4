"""The exact world of an environment component in numpy, and the ids of its moves: a step is a few gathers.

Requirements this file meets:
- environments of equal arguments share one set of tables, so that many of them cost no more than one;
- from id to slot by what leaves which man's square in which way, so that nothing is searched for.
"""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.ending import OVER, STALEMATE
from rlhf_lab_chess.environment import EndingEnvironment
from rlhf_lab_chess.states import action_ids
from rlhf_lab_chess.successors import KING_SLOTS

__all__ = ["BoardTables"]

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
        self.ending, world = component.ending(), component.world()
        self._width, self._answers = world.moves.shape[1], world.replies.shape[1]
        self._moves, self._replies = world.moves.numpy().reshape(-1), world.replies.numpy().reshape(-1)
        cumulative = world.chances.numpy().cumsum(-1)
        cumulative[cumulative >= 1 - 1e-12] = 2  # no rounding leads past the last answer of any chance
        self._cumulative = cumulative
        self._own, self._paid = world.own_rewards.numpy().reshape(-1), world.reply_rewards.numpy().reshape(-1)
        start = world.start.numpy()
        self._possible = np.flatnonzero(start)
        self._starts = start[self._possible].cumsum()
        self._starts[-1] = 2  # nor past the last position
        self.terminal = world.terminal.numpy()
        # besides the last three states only those are ends in which the side with the man has no move
        self.why = np.where(self.terminal, 1 + STALEMATE, 0)
        self.why[-len(OVER) :] = 1 + np.arange(len(OVER))
        self.ids = action_ids(self.ending)
        self._by_plane = np.full((len(self.ending.men), 2, self.ending.board.planes), -1, dtype=np.int16)
        for slot, ids in enumerate(self.ids.T):
            legal = ids >= 0
            kinds, planes = self.ending.white_man[legal], ids[legal] % self.ending.board.planes
            self._by_plane[kinds, int(slot >= KING_SLOTS), planes] = slot

    def draw_starts(self, uniforms: NDArray[np.float64]) -> Numbers:
        """Return the states that numbers in [0, 1) choose."""
        drawn: Numbers = self._possible[np.searchsorted(self._starts, uniforms, side="right")]
        return drawn

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
        pairs = states * self._width + slots
        positions = self._moves[pairs].astype(np.int64)
        answers = (self._cumulative[positions] <= uniforms[:, None]).sum(1)
        branches = positions * self._answers + answers
        return self._replies[branches].astype(np.int64), self._own[pairs] + self._paid[branches]
