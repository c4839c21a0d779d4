"""What stands on the boards of many games, ends of games included, as the side with the man sees it.

Requirements this file meets:
- a game's last position is shown as it is: mate and stalemate with the other side to move, a lost man gone, a knight or
  bishop that a pawn has become;
- planes are those of ``observation``, of the learner's view throughout, made by a few scatters for all games.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.ending import INSUFFICIENT, Ending
from rlhf_lab_chess.geometry import KING, PAWN, Squares
from rlhf_lab_chess.observation import PLANES, Planes
from rlhf_lab_chess.placement import LETTERS, Position, mirrored
from rlhf_lab_chess.successors import DEAD

__all__ = ["Views", "at_the_end", "of_states"]

Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Views:
    """One position per game: the side with the man is white here, whatever it is in the game."""

    squares: Squares  # [n,3] the king, the man (0 where it is gone), the bare king
    men: Squares  # [n] what the man is, PAWN to QUEEN, or 0
    moving: NDArray[np.bool_]  # [n] the side with the man is to move

    def __getitem__(self, rows: Any) -> Views:
        return Views(self.squares[rows], self.men[rows], self.moving[rows])

    def __setitem__(self, rows: Any, views: Views) -> None:
        self.squares[rows], self.men[rows], self.moving[rows] = views.squares, views.men, views.moving

    def planes(self, side: int) -> Planes:
        """Return the observations ``[n, 18, side, side]`` of the side with the man, also where the other is to move."""
        count, squares = len(self.men), side * side
        planes = np.zeros((count, PLANES * squares), dtype=np.uint8)
        rows = np.arange(count)
        king, man, bare = self.squares.T
        planes[rows, np.maximum(self.men - PAWN, 0) * squares + man] = self.men > 0
        planes[rows, (KING - PAWN) * squares + king] = 1
        planes[rows, (2 * KING - PAWN) * squares + bare] = 1  # the opponent's men follow the mover's, kings last
        return planes.reshape(count, PLANES, side, side)

    def position(self, row: int, side: int, white: bool = True) -> Position:
        """Return the position of one game, with the man white's, or black's and colours exchanged."""
        men = [0] * (side * side)
        king, man, bare = self.squares[row].tolist()
        men[man] = int(self.men[row])
        men[king], men[bare] = KING, -KING
        position = Position(side, tuple(men), bool(self.moving[row]))
        return position if white else mirrored(position)


def of_states(ending: Ending, states: Numbers) -> Views:
    """Return the positions of states ``[n]`` that are none of the last three."""
    kinds = np.array([LETTERS.index(man) for man in ending.men])
    return Views(ending.white[states], kinds[ending.white_man[states]], np.ones(len(states), dtype=np.bool_))


def at_the_end(ending: Ending, states: Numbers, slots: Numbers, ends: Numbers) -> Views:
    """Return the last positions of games that went from ``states [n]`` by legal moves ``slots`` to states ``ends``.

    Where the end is a position with white to move, stalemate or no end at all, that one is returned.
    """
    first = len(ending.white)
    views = of_states(ending, np.minimum(ends, first - 1))
    behind = ending.moves[states, slots]
    # white's move was the last: mate, stalemate, and what a pawn has become
    closed = (behind >= 0) & (ends >= first)
    kinds = np.array([LETTERS.index(man) for man in ending.men])
    halted = closed & (ends != first + INSUFFICIENT)
    views[halted] = Views(
        ending.black[behind[halted]], kinds[ending.black_man[behind[halted]]], np.zeros(halted.sum(), dtype=np.bool_)
    )
    for row in np.flatnonzero(behind == DEAD).tolist():
        _, target, becomes = ending.move(int(states[row]), int(slots[row]))
        king, _, bare = ending.white[states[row]].tolist()
        views[[row]] = Views(np.array([[king, target, bare]]), np.array([LETTERS.index(becomes)]), np.array([False]))
    taken = closed & (ends == first + INSUFFICIENT)
    king, man, _ = ending.black[behind[taken]].T
    views[taken] = Views(np.stack([king, np.zeros_like(king), man], 1), np.zeros_like(king), np.ones_like(king) > 0)
    return views
