"""Where every move leads, in the endings of one man against a bare king.

White's moves are *slots*, the same in every position: eight king steps in the order of the board's directions, then the
man's. Queen: 8 directions x distance; rook: 4 directions (north, east, south, west) x distance; pawn: a step, a double
step, and promotions to knight, bishop and rook. A step to the last rank promotes to a queen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.positions import Positions, attacks, positions

__all__ = ["DEAD", "KING_SLOTS", "NONE", "Replies", "Step", "black_replies", "slots", "white_moves"]

KING_SLOTS: Final = 8
NONE: Final = -1  # no such move
DEAD: Final = -2  # the move leaves bare kings, or a knight or bishop that cannot mate


@dataclass(frozen=True)
class Step:
    """What a slot does to the man: ``distance`` squares in ``direction``, and what a pawn becomes there."""

    direction: int
    distance: int
    promotion: str = ""


def slots(board: Board, man: str) -> list[Step]:
    """Return what each slot of ``man`` does; the king's eight slots come before them."""
    if man == "P":
        return [Step(0, 1), Step(0, 2), *(Step(0, 1, promotion) for promotion in "NBR")]
    directions = range(8) if man == "Q" else range(0, 8, 2)
    return [Step(direction, distance) for direction in directions for distance in range(1, board.side)]


def white_moves(found: Positions) -> dict[str, NDArray[np.int32]]:
    """Return white's moves by the man that is on the board behind them, ``[m, slots]`` each.

    A number is that of the position with black to move, among those with that man; ``NONE`` elsewhere. Under the key
    "" stands ``DEAD`` where a pawn becomes a knight or bishop.
    """
    board, man = found.board, found.man
    king, piece, bare = found.white.T
    steps = slots(board, man)
    shape = (len(king), KING_SLOTS + len(steps))
    moves = {each: np.full(shape, NONE, dtype=np.int32) for each in ("QRP" if man == "P" else man)}
    if man == "P":
        moves[""] = np.full(shape, NONE, dtype=np.int32)
    for slot in range(KING_SLOTS):
        to = board.rays[king, slot, 0]
        legal = (to >= 0) & (to != piece) & (board.distance[to, bare] > 1)
        moves[man][legal, slot] = found.number_of_black[to[legal], piece[legal], bare[legal]]
    for slot, step in enumerate(steps, KING_SLOTS):
        to = board.rays[piece, step.direction, step.distance - 1]
        # the squares on the way, and the last one, hold nobody: white takes nothing, and attacks no king
        legal = to >= 0
        for other in (king, bare):
            legal &= (to != other) & ~board.between[piece, to, other]
        becomes = np.full(len(to), step.promotion or man)
        if man == "P":
            rank = to // board.side
            last = rank == board.side - 1
            legal &= last if step.promotion else True
            if step.distance == 2:
                legal &= (piece // board.side == 1) & (board.side == 8)
            if not step.promotion:
                becomes[last] = "Q"
        for each, table in moves.items():
            here = legal & (becomes == each if each else np.isin(becomes, ["N", "B"]))
            if each:
                numbers = positions(board, each).number_of_black
                table[here, slot] = numbers[king[here], to[here], bare[here]]
            else:
                table[here, slot] = DEAD
    return moves


@dataclass(frozen=True, eq=False)
class Replies:
    """Black's answers: ``numbers [m,8]`` of positions with white to move, by direction of the king's step.

    ``NONE`` where there is no such step, ``DEAD`` where it takes the man. ``checked [m]``: black is in check.
    """

    numbers: NDArray[np.int32]
    checked: NDArray[np.bool_]


def black_replies(found: Positions) -> Replies:
    """Return black's answers in every position with black to move."""
    board = found.board
    king, piece, bare = found.black.T
    attacked = attacks(board, found.man)
    numbers = np.full((len(king), KING_SLOTS), NONE, dtype=np.int32)
    for slot in range(KING_SLOTS):
        to = board.rays[bare, slot, 0]
        # the king's own old square blocks no line: only white's king does
        legal = (to >= 0) & (board.distance[king, to] > 1)
        takes = legal & (to == piece)
        legal &= (to != piece) & ~attacked[piece, to, king]
        numbers[takes, slot] = DEAD
        numbers[legal, slot] = found.number_of_white[king[legal], piece[legal], to[legal]]
    return Replies(numbers, attacked[piece, bare, king])
