"""A whole ending: its positions, where every move leads, and who wins; a pawn's promotions lead to further endings.

States are positions with white to move. Behind the last of them come three more, in which the game is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rlhf_lab.errors import LabError
from rlhf_lab_chess.geometry import LARGEST, SMALLEST, Board, Squares
from rlhf_lab_chess.retrograde import DRAW, Distances
from rlhf_lab_chess.successors import DEAD, KING_SLOTS, NONE, Step, slots
from rlhf_lab_chess.tables import PROMOTED, solved

__all__ = ["CHECKMATE", "ENDINGS", "INSUFFICIENT", "OVER", "STALEMATE", "Ending", "ending"]

ENDINGS: Final = {"KQK": "Q", "KRK": "R", "KPK": "P"}
CHECKMATE, STALEMATE, INSUFFICIENT = range(3)
OVER: Final = ("checkmate", "stalemate", "insufficient")
"""How a game ends: the names of the last three states, in order; insufficient is a draw without mating material."""


@dataclass(frozen=True, eq=False)
class Ending:
    """An ending on one board. States count the positions with white to move; ``[b]`` those with black to move.

    ``white`` and ``black`` are the squares of white's king, the man and black's king; ``white_man`` and ``black_man``
    tell which of ``men`` stands there. ``replies`` are black's king's steps by direction.
    """

    name: str
    board: Board
    men: str
    white: Squares  # [w,3]
    white_man: NDArray[np.int8]  # [w]
    black: Squares  # [b,3]
    black_man: NDArray[np.int8]  # [b]
    moves: NDArray[np.int32]  # [w,slots] of positions with black to move; NONE, DEAD
    replies: NDArray[np.int32]  # [b,8] of positions with white to move; NONE, DEAD
    checked: NDArray[np.bool_]  # [b] black is in check
    won: Distances  # [w] plies to mate under best play, DRAW where there is none
    lost: Distances  # [b]

    @property
    def states(self) -> int:
        """How many states there are, the three in which the game is over counted."""
        return len(self.white) + len(OVER)

    @cached_property
    def stuck(self) -> NDArray[np.bool_]:
        """Where black has no move: mate or stalemate, ``[b]``."""
        return np.asarray((self.replies == NONE).all(1))

    @property
    def mated(self) -> NDArray[np.bool_]:
        """Where black is mated, ``[b]``."""
        return self.stuck & self.checked

    @cached_property
    def steps(self) -> dict[str, list[Step]]:
        """What the slots behind the king's eight do, by man."""
        return {man: slots(self.board, man) for man in self.men}

    def state(self, king: int, man: str, square: int, bare: int) -> int | None:
        """Return the number of a position with white to move, or None where it is not legal or not of this ending."""
        if man not in self.men:
            return None
        kind = self.men.index(man)
        number = int(solved(self.board, man).positions.number_of_white[king, square, bare])
        return None if number < 0 else number + int(np.searchsorted(self.white_man, kind))

    def move(self, state: int, slot: int) -> tuple[int, int, str]:
        """Return the squares from which and to which a legal move goes, and what a pawn becomes ("" for nothing)."""
        king, piece, _ = self.white[state].tolist()
        if slot < KING_SLOTS:
            return king, int(self.board.rays[king, slot, 0]), ""
        man = self.men[self.white_man[state]]
        step = self.steps[man][slot - KING_SLOTS]
        target = int(self.board.rays[piece, step.direction, step.distance - 1])
        last = man == "P" and target // self.board.side == self.board.side - 1
        return piece, target, step.promotion or ("Q" if last else "")

    def moves_to_mate(self, state: int) -> int | None:
        """Return in how many of white's moves it mates under best play, or None where it is a draw."""
        plies = int(self.won[state])
        return None if plies == DRAW else (plies + 1) // 2


@cache
def ending(name: str, side: int = 8) -> Ending:
    """Return an ending, ``KQK``, ``KRK`` or ``KPK``, on a board of ``side`` x ``side``.

    Raises ``LabError`` for another name and for a board on which it is not played: 4 to 8, and 8 with a pawn.
    """
    if name not in ENDINGS:
        raise LabError(f"ending {name!r} is unknown. Possible: {', '.join(ENDINGS)}")
    if not SMALLEST <= side <= LARGEST:
        raise LabError(f"board: {name} is played on 4 x 4 to 8 x 8, found {side} x {side}; choose a side from 4 to 8")
    man = ENDINGS[name]
    if man == "P" and side < 8:
        raise LabError(
            f"board: a pawn needs 8 ranks for its double step and promotion, found {side} x {side}; take board 8, or "
            "KQK or KRK on a small board"
        )
    board = Board(side)
    men = man + "".join(PROMOTED) if man == "P" else man
    parts = [solved(board, each) for each in men]
    first_white = np.cumsum([0, *(len(part.won) for part in parts)])
    first_black = dict(zip(men, np.cumsum([0, *(len(part.lost) for part in parts)]).tolist(), strict=False))
    width = max(KING_SLOTS + len(slots(board, each)) for each in men)
    moves = np.full((first_white[-1], width), NONE, dtype=np.int32)
    replies = []
    for part, first in zip(parts, first_white.tolist(), strict=False):
        rows = slice(first, first + len(part.won))
        for behind, table in part.moves.items():
            own = moves[rows, : table.shape[1]]
            own[table >= 0] = table[table >= 0] + first_black.get(behind, 0)
            own[table == DEAD] = DEAD
        answers = part.replies.numbers
        replies.append(np.where(answers >= 0, answers + first, answers).astype(np.int32))
    kinds = [np.full(len(part.won), kind, dtype=np.int8) for kind, part in enumerate(parts)]
    replying = [np.full(len(part.lost), kind, dtype=np.int8) for kind, part in enumerate(parts)]
    return Ending(
        name,
        board,
        men,
        np.concatenate([part.positions.white for part in parts]),
        np.concatenate(kinds),
        np.concatenate([part.positions.black for part in parts]),
        np.concatenate(replying),
        moves,
        np.concatenate(replies),
        np.concatenate([part.replies.checked for part in parts]),
        np.concatenate([part.won for part in parts]),
        np.concatenate([part.lost for part in parts]),
    )
