"""What the mover sees of a position: planes of numbers, and the way back.

An observation is ``[18, side, side]`` in uint8, channels first: plane, rank, file. All is relative to the mover: rank 0
is the mover's first; for black the ranks are flipped and the files kept.

====== ===========================================================================================
plane  content
====== ===========================================================================================
0-5    1 where the mover has a pawn, knight, bishop, rook, queen, king
6-11   1 where the opponent has a pawn, knight, bishop, rook, queen, king
12-15  1 everywhere where a castling right is left: the mover's on the king's side (rook of file h) and
       on the queen's (rook of file a), then the opponent's on the king's and on the queen's
16     1 on the square that the opponent's pawn has just passed in a step of two
17     everywhere the half-moves since a man was taken or a pawn moved; 255 where they are more
====== ===========================================================================================

Neither the mover's colour nor the number of the move is seen.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rlhf_lab_chess.geometry import KING
from rlhf_lab_chess.placement import CASTLING, Position

__all__ = ["PLANES", "Planes", "observe", "observe_all", "position_of"]

Planes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

PLANES: Final = 18
_MEN: Final = np.array([*range(1, KING + 1), *range(-1, -KING - 1, -1)])
_RIGHTS: Final = slice(len(_MEN), len(_MEN) + len(CASTLING))
_PASSED: Final = _RIGHTS.stop
_CLOCK: Final = _PASSED + 1
_OTHER: Final = [*range(6, 12), *range(6), 14, 15, 12, 13, _PASSED, _CLOCK]
"""The planes in the other colour's order; twice gives the first."""


def observe(position: Position) -> Planes:
    """Return a position as its mover sees it, ``[18, side, side]``."""
    planes: Planes = observe_all(
        np.array([position.men]),
        np.array([position.white_to_move]),
        np.array([[right in position.castling for right in CASTLING]]),
        np.array([-1 if position.en_passant is None else position.en_passant]),
        np.array([position.halfmove]),
    )[0]
    return planes


def observe_all(
    men: Integers, white_to_move: Bools, castling: Bools, en_passant: Integers, halfmove: Integers
) -> Planes:
    """Return m positions as their movers see them, ``[m, 18, side, side]``.

    ``men [m, squares]`` as in ``Position``; ``castling [m, 4]`` the rights K, Q, k, q; ``en_passant [m]`` a square or
    -1; ``white_to_move`` and ``halfmove [m]``.
    """
    m, squares = men.shape
    side = math.isqrt(squares)
    planes = np.zeros((m, PLANES, side, side), dtype=np.uint8)
    flat = planes.reshape(m, PLANES, squares)  # a view
    flat[:, : len(_MEN)] = men[:, None] == _MEN[:, None]
    flat[:, _RIGHTS] = castling[:, :, None]
    flat[:, _PASSED] = np.arange(squares) == en_passant[:, None]
    flat[:, _CLOCK] = np.minimum(halfmove, 255)[:, None]
    planes[~white_to_move] = planes[~white_to_move][:, _OTHER, ::-1]
    return planes


def position_of(planes: Planes, white_to_move: bool, fullmove: int = 1) -> Position:
    """Return the position of an observation; what is not seen is given: whose it is, and the number of the move."""
    side = planes.shape[-1]
    seen = (planes if white_to_move else planes[_OTHER, ::-1]).reshape(PLANES, -1)
    men = (_MEN[:, None] * seen[: len(_MEN)]).sum(0)
    passed = np.flatnonzero(seen[_PASSED])
    return Position(
        side,
        tuple(men.tolist()),
        white_to_move,
        "".join(right for right, left in zip(CASTLING, seen[_RIGHTS, 0], strict=True) if left),
        int(passed[0]) if passed.size else None,
        int(seen[_CLOCK, 0]),
        fullmove,
    )
