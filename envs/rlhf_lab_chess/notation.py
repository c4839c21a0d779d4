"""Positions and moves in writing: FEN and UCI, on every board.

FEN on n x n has n ranks of n files, from the last rank down: ``3k/4/4/KR2 w - - 0 1``. Errors are ``BadRowError`` with
the field's name, what was found and what is due; who reads a file sets their ``place``.

Source: Edwards 1994, Portable Game Notation Specification and Implementation Guide, section 16.1 (FEN); Huber and
Meyer-Kahlen 2000, Universal Chess Interface, "move format".
"""

from __future__ import annotations

import re
from typing import Final

from rlhf_lab.data.errors import BadRowError, shown
from rlhf_lab_chess.geometry import BISHOP, KNIGHT, LARGEST, QUEEN, ROOK, SMALLEST, Board
from rlhf_lab_chess.placement import CASTLING, LETTERS, Position, letter, refuse_impossible

__all__ = ["read_fen", "read_uci", "write_fen", "write_uci"]

_FIELDS: Final = ("placement", "side to move", "castling", "en passant", "halfmove clock", "fullmove number")
_MEN: Final = {letter(sign * man): sign * man for man in range(1, len(LETTERS)) for sign in (1, -1)}
_PROMOTIONS: Final = {letter(-man): man for man in (KNIGHT, BISHOP, ROOK, QUEEN)}
_NUMBER: Final = re.compile("[0-9]{1,9}")
_UCI: Final = re.compile("([a-z][0-9])([a-z][0-9])(.?)")


def read_fen(text: str, side: int | None = None) -> Position:
    """Return the position of a FEN, with clocks 0 and 1 where its last two fields are left out.

    ``side`` is that of the board; None takes it from the number of ranks.

    Raises ``BadRowError`` for a field that cannot be read, and for a position that no game could bring about.
    """
    fields = text.split()
    if len(fields) not in (4, 6):
        found = f"{len(fields)} in {shown(text)}"
        raise BadRowError("FEN", "has not four or six fields", found=found, due=f"write {', '.join(_FIELDS)}")
    placement, mover, castling, passed, *clocks = fields
    men = _placement(placement, side)
    board = Board(len(men))
    if mover not in ("w", "b"):
        raise BadRowError("side to move", "is neither w nor b", found=shown(mover))
    halfmove, fullmove = (_number(i, clock) for i, clock in enumerate(clocks or ["0", "1"]))
    position = Position(
        board.side,
        tuple(man for rank in reversed(men) for man in rank),
        mover == "w",
        _castling(castling),
        _en_passant(passed, board),
        halfmove,
        fullmove,
    )
    refuse_impossible(position)
    return position


def write_fen(position: Position) -> str:
    """Return a position's FEN with all six fields."""
    ranks = []
    for rank in reversed(range(position.side)):
        men = "".join(map(letter, position.men[rank * position.side : (rank + 1) * position.side]))
        ranks.append(re.sub(r"\.+", lambda empty: str(len(empty[0])), men))
    passed = "-" if position.en_passant is None else position.board.name(position.en_passant)
    mover = "w" if position.white_to_move else "b"
    return f"{'/'.join(ranks)} {mover} {position.castling or '-'} {passed} {position.halfmove} {position.fullmove}"


def read_uci(text: str, board: Board) -> tuple[int, int, int]:
    """Return origin, target and promotion (0: none) of a move such as ``a1b2`` or ``a7a8q``.

    Whether the move is legal somewhere is not asked.

    Raises ``BadRowError`` for what is no move on this board.
    """
    parts = _UCI.fullmatch(text)
    last = board.name(board.squares - 1)
    due = f"write two squares of a1 to {last}, and behind them q, r, b or n for a promotion"
    if parts is None:
        raise BadRowError("move", "is not written as two squares", found=shown(text), due=due)
    rank, file = max(parts[1][1], parts[2][1]), max(parts[1][0], parts[2][0])
    if "0" in parts[0] or int(rank) > board.side or file > last[0]:
        raise BadRowError("move", "leaves the board", found=shown(text), due=due)
    if parts[1] == parts[2]:
        raise BadRowError("move", "stays where it is", found=shown(text), due=due)
    if parts[3] and parts[3] not in _PROMOTIONS:
        raise BadRowError("move", "promotes to what no pawn becomes", found=shown(text), due=due)
    return board.square(parts[1]), board.square(parts[2]), _PROMOTIONS.get(parts[3], 0)


def write_uci(board: Board, origin: int, target: int, promotion: int = 0) -> str:
    """Return a move as two squares, and the letter of what a pawn becomes."""
    return board.name(origin) + board.name(target) + (letter(-promotion) if promotion else "")


def _placement(text: str, side: int | None) -> list[list[int]]:
    """Return the men of each rank, the last rank first."""
    ranks = text.split("/")
    possible = range(SMALLEST, LARGEST + 1) if side is None else (side,)
    if len(ranks) not in possible:
        due = f"a board has {SMALLEST} to {LARGEST}" if side is None else f"this board has {side}"
        raise BadRowError("placement", "has a wrong number of ranks", found=f"{len(ranks)} in {shown(text)}", due=due)
    return [_rank(rank, len(ranks) - i, len(ranks)) for i, rank in enumerate(ranks)]


def _rank(text: str, number: int, side: int) -> list[int]:
    men: list[int] = []
    for i, sign in enumerate(text):
        if sign in _MEN:
            men.append(_MEN[sign])
        elif sign in "12345678"[:side]:
            if i and text[i - 1] in "12345678":
                due = "write their sum"
                raise BadRowError("placement", f"rank {number} has two numbers in a row", found=shown(text), due=due)
            men += [0] * int(sign)
        else:
            due = f"men are {''.join(_MEN)}; 1 to {side} count empty squares"
            raise BadRowError("placement", f"rank {number} has an unknown sign {sign!r}", found=shown(text), due=due)
    if len(men) != side:
        reason = f"rank {number} is too {'long' if len(men) > side else 'short'}"
        raise BadRowError("placement", reason, found=f"{len(men)} squares in {shown(text)}", due=f"it has {side}")
    return men


def _castling(text: str) -> str:
    if text == "-":
        return ""
    if not set(text) <= set(CASTLING) or len(set(text)) < len(text):
        due = f"write -, or of {CASTLING} each at most once"
        raise BadRowError("castling", "cannot be read", found=shown(text), due=due)
    return "".join(sorted(text, key=CASTLING.index))


def _en_passant(text: str, board: Board) -> int | None:
    if text == "-":
        return None
    names = [board.name(square) for square in range(board.squares)]
    if text not in names:
        due = f"write -, or the square that a pawn has just passed, of a1 to {names[-1]}"
        raise BadRowError("en passant", "is no square", found=shown(text), due=due)
    return board.square(text)


def _number(clock: int, text: str) -> int:
    """Return the halfmove clock (0) or the fullmove number (1), which begin at 0 and 1."""
    if not _NUMBER.fullmatch(text) or int(text) < clock:
        due = f"write a whole number from {clock}"
        raise BadRowError(_FIELDS[4 + clock], "is no number of moves", found=shown(text), due=due)
    return int(text)
