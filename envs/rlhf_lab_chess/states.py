"""Between the numbers of an ending and positions and moves as people write them.

The side that has the man moves: white, or black with colours exchanged (ranks flipped, files kept), which is the same
state.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rlhf_lab.data.errors import BadRowError
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.geometry import KING
from rlhf_lab_chess.notation import read_fen, read_uci, write_fen, write_uci
from rlhf_lab_chess.placement import LETTERS, Position, letter, mirrored
from rlhf_lab_chess.successors import NONE

__all__ = ["action_ids", "position_of", "read_move", "read_state", "state_of", "write_move", "write_state"]


def position_of(ending: Ending, state: int, *, white: bool = True) -> Position:
    """Return the position of a state that is not an end, with the men white's, or black's and colours exchanged."""
    men = [0] * ending.board.squares
    king, man, bare = ending.white[state].tolist()
    men[king], men[bare] = KING, -KING
    men[man] = LETTERS.index(ending.men[ending.white_man[state]])
    position = Position(ending.board.side, tuple(men))
    return position if white else mirrored(position)


def state_of(ending: Ending, position: Position) -> int:
    """Return the number of a position in which the side with the man is to move.

    Raises ``BadRowError`` where other men stand on the board, the side to move has none, or may still castle.
    """
    own = position if position.white_to_move else mirrored(position)
    sign = 1 if position.white_to_move else -1
    pieces = {square: man for square, man in enumerate(own.men) if man and abs(man) != KING}
    possible = [LETTERS.index(man) for man in ending.men]
    if len(pieces) != 1 or abs(next(iter(pieces.values()))) not in possible:
        found = "".join(letter(sign * man) for man in pieces.values()) or "bare kings"
        due = f"{ending.name} has two kings and one of {', '.join(ending.men)}"
        raise BadRowError("placement", "is no position of this ending", found=found, due=due)
    ((square, man),) = pieces.items()
    if man < 0:
        due = "the side with the man is to move"
        raise BadRowError("side to move", "has a bare king", found=letter(sign * man), due=due)
    if position.castling:
        due = f"write -; in {ending.name} the king has moved"
        raise BadRowError("castling", "is no right in this ending", found=position.castling, due=due)
    number = ending.state(own.squares_of(KING)[0], LETTERS[man], square, own.squares_of(-KING)[0])
    assert number is not None  # impossible positions were refused when the FEN was read
    return number


def read_state(ending: Ending, fen: str) -> tuple[int, bool]:
    """Return the state of a FEN, and whether it is white that moves; raises ``BadRowError`` for what is none."""
    position = read_fen(fen, ending.board.side)
    return state_of(ending, position), position.white_to_move


def write_state(ending: Ending, state: int, *, white: bool = True) -> str:
    """Return the FEN of a state."""
    return write_fen(position_of(ending, state, white=white))


def read_move(ending: Ending, state: int, uci: str, *, white: bool = True) -> int:
    """Return the slot of a move in writing; raises ``BadRowError`` where it is not legal in ``state``."""
    board = ending.board
    origin, target, promotion = read_uci(uci, board)
    wanted = (origin, target) if white else (board.mirror(origin), board.mirror(target))
    legal = np.flatnonzero(ending.moves[state] != NONE).tolist()
    for slot in legal:
        start, end, becomes = ending.move(state, slot)
        if (start, end) == wanted and LETTERS[promotion].replace(".", "") == becomes:
            return int(slot)
    possible = ", ".join(write_move(ending, state, slot, white=white) for slot in legal) or "none"
    due = f"legal: {possible}"
    raise BadRowError("move", f"is illegal in {write_state(ending, state, white=white)}", found=repr(uci), due=due)


def write_move(ending: Ending, state: int, slot: int, *, white: bool = True) -> str:
    """Return a legal move as two squares, and the letter of what a pawn becomes."""
    origin, target, becomes = ending.move(state, slot)
    if not white:
        origin, target = ending.board.mirror(origin), ending.board.mirror(target)
    return write_uci(ending.board, origin, target, LETTERS.index(becomes) if becomes else 0)


@cache
def action_ids(ending: Ending) -> NDArray[np.int16]:
    """Return the number of each slot's move in the board's encoding ``[w,slots]``, -1 where it is not legal."""
    board = ending.board
    ids = np.full(ending.moves.shape, -1, dtype=np.int16)  # 4,671 is the largest
    for kind, man in enumerate(ending.men):
        rows = np.flatnonzero(ending.white_man == kind)
        king, piece, _ = ending.white[rows].T
        for slot in range(8 + len(ending.steps[man])):
            legal = ending.moves[rows, slot] != NONE
            if slot < 8:
                origin, target, promotion = king[legal], board.steps[king[legal], slot], 0
            else:
                step = ending.steps[man][slot - 8]
                origin = piece[legal]
                target = board.rays[origin, step.direction, step.distance - 1]
                promotion = LETTERS.index(step.promotion) if step.promotion else 0
            ids[rows[legal], slot] = board.encode(origin, target, promotion)
    return ids
