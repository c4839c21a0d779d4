"""Every legal position of a king and one man against a bare king, numbered.

White has the man. A position is three squares: white's king, the man, black's king. Legal: the squares differ, the
kings are apart, and the side that is not to move is not in check; positions that no game reaches are counted, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.geometry import Board, Squares

__all__ = ["MEN", "Positions", "attacks", "positions"]

MEN = ("Q", "R", "P")
"""The men that an ending may have: queen, rook, pawn."""


@dataclass(frozen=True, eq=False)
class Positions:
    """The positions with one man on a board, by who is to move: ``[m,3]`` squares of king, man and black's king."""

    board: Board
    man: str
    white: Squares  # white to move, sorted
    black: Squares  # black to move, sorted

    @cached_property
    def number_of_white(self) -> NDArray[np.int32]:
        """The number of a position with white to move by its three squares, -1 where it is not legal."""
        return self._numbers(self.white)

    @cached_property
    def number_of_black(self) -> NDArray[np.int32]:
        """The number of a position with black to move by its three squares, -1 where it is not legal."""
        return self._numbers(self.black)

    def _numbers(self, found: Squares) -> NDArray[np.int32]:
        numbers = np.full((self.board.squares,) * 3, -1, dtype=np.int32)
        numbers[tuple(found.T)] = np.arange(len(found))
        return numbers


@cache
def attacks(board: Board, man: str) -> NDArray[np.bool_]:
    """Return whether a man of white's attacks a square past one blocker, ``[man's square, attacked one, blocker]``."""
    squares = board.squares
    rays = {"Q": range(8), "R": range(0, 8, 2), "P": ()}[man]
    reached = np.zeros((squares, squares), dtype=np.bool_)
    origin = np.arange(squares)[:, None]
    for direction in rays:
        ray = board.rays[:, direction]  # [from, distance]
        there = ray >= 0
        reached[np.broadcast_to(origin, ray.shape)[there], ray[there]] = True
    if man == "P":
        for direction in (1, 7):  # north-east and north-west
            target = board.rays[:, direction, 0]
            reached[origin[target >= 0, 0], target[target >= 0]] = True
    return reached[:, :, None] & ~board.between


@cache
def positions(board: Board, man: str) -> Positions:
    """Return all legal positions of white's king and ``man`` against black's king."""
    squares = board.squares
    king, piece, bare = np.meshgrid(*[np.arange(squares)] * 3, indexing="ij")
    ranks = piece // board.side
    legal = (king != piece) & (piece != bare) & (board.distance[king, bare] > 1)
    if man == "P":
        legal &= (ranks > 0) & (ranks < board.side - 1)
    checked = attacks(board, man)[piece, bare, king]
    found: Any = [np.argwhere(x) for x in (legal & ~checked, legal)]
    return Positions(board, man, *found)
