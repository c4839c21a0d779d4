"""Square boards: their squares, their lines, and the number of every move.

Square = rank · side + file, a1 = 0. Moves are numbered relative to the mover: black's squares go through ``mirror``,
which flips ranks and keeps files, so that every pawn goes north.
"""

from __future__ import annotations

import functools
import string
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

import numpy as np
import numpy.typing as npt

from rlhf_lab.errors import LabError

__all__ = [
    "BISHOP", "DIRECTIONS", "KING", "KNIGHT", "KNIGHT_STEPS", "LARGEST", "PAWN", "QUEEN", "ROOK", "SMALLEST",
    "UNDERPROMOTIONS", "Board", "Squares",
]  # fmt: skip

Squares = npt.NDArray[np.int64]  # squares, or ids of moves; -1 is none
Integers = npt.NDArray[np.integer[Any]]

_T = TypeVar("_T", bound=np.generic)

SMALLEST: Final = 4
LARGEST: Final = 8
PAWN, KNIGHT, BISHOP, ROOK, QUEEN, KING = range(1, 7)
UNDERPROMOTIONS: Final = (KNIGHT, BISHOP, ROOK)
DIRECTIONS: Final = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
"""North and on clockwise, as (rank, file) steps; the even ones are a rook's, the odd ones a bishop's."""
KNIGHT_STEPS: Final = ((2, 1), (1, 2), (-1, 2), (-2, 1), (-2, -1), (-1, -2), (1, -2), (2, -1))
_KIND: Final = np.array([0, 0, 1, 2, 3, 0, 0])  # by piece: 0 the plain move, else the underpromotion's number


@dataclass(frozen=True)
class Board:
    """A board of ``side`` x ``side`` squares, with tables that are made when they are first read, and read only.

    A move is ``id = origin · planes + plane`` with ``planes = 8 (side - 1) + 17``:

    - direction d of ``DIRECTIONS`` and distance k = 1 ... side - 1: plane d (side - 1) + k - 1; castling is the king's
      move by two, taking en passant the pawn's diagonal step, promotion to a queen the pawn's step;
    - then the 8 ``KNIGHT_STEPS``;
    - then 9 underpromotions: knight, bishop, rook, each to the left (file - 1), straight on, to the right. They lead
      from the last rank but one to the last.

    That is AlphaZero's encoding, 73 planes and 4672 ids on 8 x 8, for every side; the order of planes is ours.

    Raises ``LabError`` for a side below 4 or above 8.

    Source: Silver et al. 2018, A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play, table S2.
    """

    side: int

    def __post_init__(self) -> None:
        if not SMALLEST <= self.side <= LARGEST:
            raise LabError(f"side: a board has {SMALLEST} to {LARGEST} ranks and as many files, found {self.side}")

    @property
    def squares(self) -> int:
        """Number of squares."""
        return self.side**2

    @property
    def planes(self) -> int:
        """Number of ways in which a man may leave its square."""
        return 8 * (self.side - 1) + 17

    @property
    def actions(self) -> int:
        """Number of ids of moves, those included that lead off the board."""
        return self.squares * self.planes

    @functools.cached_property
    def ranks(self) -> Squares:
        """Rank of each square from 0, ``[squares]``."""
        return _kept(np.arange(self.squares) // self.side)

    @functools.cached_property
    def files(self) -> Squares:
        """File of each square from 0, ``[squares]``."""
        return _kept(np.arange(self.squares) % self.side)

    @functools.cached_property
    def rays(self) -> Squares:
        """Square at each distance from 1 in each direction, ``[squares, 8, side - 1]``; -1 is off the board."""
        steps = np.array(DIRECTIONS)[:, None] * np.arange(1, self.side)[None, :, None]
        return _kept(self._after(steps.reshape(-1, 2)).reshape(self.squares, 8, self.side - 1))

    @functools.cached_property
    def steps(self) -> Squares:
        """Neighbour in each direction, ``[squares, 8]``: where a king goes; -1 is off the board."""
        return _kept(self.rays[:, :, 0])

    @functools.cached_property
    def knight_steps(self) -> Squares:
        """Where a knight goes, ``[squares, 8]``; -1 is off the board."""
        return _kept(self._after(np.array(KNIGHT_STEPS)))

    @functools.cached_property
    def distance(self) -> Squares:
        """Moves that a king needs from square to square (Chebyshev's distance), ``[squares, squares]``."""
        apart = [np.abs(along[:, None] - along) for along in (self.ranks, self.files)]
        return _kept(np.maximum(*apart))

    @functools.cached_property
    def direction(self) -> Squares:
        """Direction in which a second square lies from a first, ``[squares, squares]``; -1: on no line with it."""
        planes = self._plane[:, :, 0]
        return _kept(np.where((planes >= 0) & (planes < 8 * (self.side - 1)), planes // (self.side - 1), -1))

    @functools.cached_property
    def between(self) -> npt.NDArray[np.bool_]:
        """Whether a third square lies on the line of a first and a second, strictly between: ``[squares] * 3``."""
        same = self.direction[:, None, :] == self.direction[:, :, None]
        nearer = self.distance[:, None, :] < self.distance[:, :, None]
        return _kept(same & nearer & (self.direction >= 0)[:, :, None])

    @functools.cached_property
    def targets(self) -> Squares:
        """Where each plane leads from each square, ``[squares, planes]``; -1 is nowhere."""
        promotions = self._after(np.array([(1, -1), (1, 0), (1, 1)] * len(UNDERPROMOTIONS)))
        promotions[self.ranks != self.side - 2] = -1
        return _kept(np.concatenate([self.rays.reshape(self.squares, -1), self.knight_steps, promotions], axis=1))

    def name(self, square: int) -> str:
        """Return a square's name, ``a1`` for 0."""
        rank, file = divmod(int(square), self.side)
        return f"{string.ascii_lowercase[file]}{rank + 1}"

    def square(self, name: str) -> int:
        """Return the square of a name; raises ``LabError`` for what is none on this board."""
        try:
            return self._numbers[name]
        except KeyError:
            last = self.name(self.squares - 1)
            raise LabError(f"square {name!r}: this board has a1 to {last}, a letter and a number each") from None

    @overload
    def mirror(self, square: int) -> int: ...
    @overload
    def mirror(self, square: Integers) -> Integers: ...
    def mirror(self, square: int | Integers) -> int | Integers:
        """Return the square, or squares, of the same file on the rank as far from the other edge."""
        return square + self.side * (self.side - 1 - 2 * (square // self.side))

    @overload
    def encode(self, origin: int, target: int, promotion: int = 0) -> int: ...
    @overload
    def encode(self, origin: Integers, target: Integers, promotion: int | Integers = 0) -> Squares: ...
    def encode(self, origin: int | Integers, target: int | Integers, promotion: int | Integers = 0) -> int | Squares:
        """Return the id of a move, or of many; -1 where no man moves so.

        Squares are relative to the mover. ``promotion`` is ``KNIGHT``, ``BISHOP`` or ``ROOK`` where a pawn becomes one;
        anything else (0, ``QUEEN``) leaves the plain move.

        Raises ``IndexError`` for a square that is not on the board.
        """
        self._within(origin, self.squares, "square")
        self._within(target, self.squares, "square")
        plane = self._plane[origin, target, _KIND[promotion]]
        ids = np.where(plane >= 0, np.asarray(origin, dtype=np.int64) * self.planes + plane, -1)
        return ids if ids.ndim else int(ids)

    @overload
    def decode(self, action: int) -> tuple[int, int, int]: ...
    @overload
    def decode(self, action: Integers) -> tuple[Squares, Squares, Squares]: ...
    def decode(self, action: int | Integers) -> tuple[int, int, int] | tuple[Squares, Squares, Squares]:
        """Return origin, target and promotion (0: none, or to a queen) of an id, or of many.

        The target is -1 where the move leads off the board, or promotes from another rank than the last but one.

        Raises ``IndexError`` for a number that is no id.
        """
        self._within(action, self.actions, "action")
        origin, plane = np.divmod(np.asarray(action, dtype=np.int64), self.planes)
        target = self.targets[origin, plane]
        first = self._first_promotion
        promotion = np.where(plane >= first, (plane - first) // 3 + KNIGHT, 0)
        if np.ndim(action) == 0:
            return int(origin), int(target), int(promotion)
        return origin, target, promotion

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {self.name(square): square for square in range(self.squares)}

    @functools.cached_property
    def _plane(self) -> Squares:
        """Plane from square to square, plain and by each underpromotion, ``[squares, squares, 4]``; -1 is none."""
        planes = np.full((self.squares, self.squares, 1 + len(UNDERPROMOTIONS)), -1)
        origin, plane = np.nonzero(self.targets >= 0)
        kind = np.maximum(plane - self._first_promotion + 3, 0) // 3
        planes[origin, self.targets[origin, plane], kind] = plane
        return _kept(planes)

    @property
    def _first_promotion(self) -> int:
        return self.planes - 3 * len(UNDERPROMOTIONS)

    def _after(self, steps: Squares) -> Squares:
        """Return the square behind each (rank, file) step, ``[squares, steps]``; -1 is off the board."""
        rank, file = self.ranks[:, None] + steps[:, 0], self.files[:, None] + steps[:, 1]
        inside = (rank >= 0) & (rank < self.side) & (file >= 0) & (file < self.side)
        return np.where(inside, rank * self.side + file, -1)

    def _within(self, numbers: int | Integers, end: int, what: str) -> None:
        # numpy would take -1 for the last one
        wrong = np.asarray(numbers)
        wrong = wrong[(wrong < 0) | (wrong >= end)]
        if wrong.size:
            raise IndexError(f"{what} {wrong.flat[0]}: a board of side {self.side} has {what}s 0 to {end - 1}")


def _kept(table: npt.NDArray[_T]) -> npt.NDArray[_T]:
    table.flags.writeable = False
    return table
