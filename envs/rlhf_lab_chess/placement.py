"""A position: which man stands where, who is to move, and what of the past still counts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from rlhf_lab.data.errors import BadRowError
from rlhf_lab_chess.geometry import BISHOP, KING, KNIGHT, PAWN, QUEEN, ROOK, Board

__all__ = ["CASTLING", "LETTERS", "Position", "attackers", "letter", "mirrored", "refuse_impossible"]

LETTERS: Final = ".PNBRQK"
"""Letter of each man by its number; white's are large, black's small."""

CASTLING: Final = "KQkq"
_WHITE_ATTACKS: Final = (3, 5)  # directions from a square to white's pawns that attack it
_BLACK_ATTACKS: Final = (1, 7)


@dataclass(frozen=True)
class Position:
    """A position on a board of ``side`` x ``side``; every colour absolute, nothing relative to the mover.

    Any men on any squares can be written down here; ``refuse_impossible`` tells what no game could bring about.
    """

    side: int
    men: tuple[int, ...]
    """Man on each square: 0 none, 1 to 6 white's P N B R Q K, -1 to -6 black's."""
    white_to_move: bool = True
    castling: str = ""
    """Rights that are left, of ``KQkq`` in this order."""
    en_passant: int | None = None
    """Square that a pawn has just passed in a step of two."""
    halfmove: int = 0
    """Half-moves since a man was taken or a pawn moved."""
    fullmove: int = 1
    """Number of the move, from 1; it grows when black has moved."""

    @property
    def board(self) -> Board:
        """The empty board."""
        return _board(self.side)

    def squares_of(self, man: int) -> list[int]:
        """Return the squares of all men of one kind and colour."""
        return [square for square, found in enumerate(self.men) if found == man]


@functools.cache
def _board(side: int) -> Board:
    return Board(side)


def letter(man: int) -> str:
    """Return a man's letter, large for white's and small for black's; ``.`` for none."""
    return LETTERS[man] if man >= 0 else LETTERS[-man].lower()


def mirrored(position: Position) -> Position:
    """Return the same position with colours exchanged: ranks flipped, files kept, the other side to move."""
    mirror = position.board.mirror
    return Position(
        position.side,
        tuple(-position.men[mirror(square)] for square in range(len(position.men))),
        not position.white_to_move,
        "".join(sorted(position.castling.swapcase(), key=CASTLING.index)),
        None if position.en_passant is None else mirror(position.en_passant),
        position.halfmove,
        position.fullmove,
    )


def attackers(position: Position, square: int, white: bool) -> list[int]:
    """Return the squares of white's (or black's) men that attack a square, pinned men and all."""
    board, men, sign = position.board, position.men, 1 if white else -1
    pawns = _WHITE_ATTACKS if white else _BLACK_ATTACKS
    found = [at for at in board.knight_steps[square].tolist() if at >= 0 and men[at] == sign * KNIGHT]
    for direction, ray in enumerate(board.rays[square].tolist()):
        reaching = {QUEEN, BISHOP if direction % 2 else ROOK}
        near = reaching | {KING} | ({PAWN} if direction in pawns else set())
        for distance, at in enumerate(ray, start=1):
            if at < 0:
                break
            if men[at]:
                if men[at] * sign in (near if distance == 1 else reaching):
                    found.append(at)
                break
    return sorted(found)


def refuse_impossible(position: Position) -> None:
    """Raise ``BadRowError``, with the reason, for a position that no game could bring about.

    Looked at: number and places of kings and pawns, number of men, checks, castling rights without king or rook at
    home, an en passant square that no pawn has passed. Whether a game leads there is not searched.
    """
    _refuse_men(position)
    _refuse_checks(position)
    _refuse_castling(position)
    if position.en_passant is not None:
        _refuse_en_passant(position, position.en_passant)


def _refuse_men(position: Position) -> None:
    n, name = position.side, position.board.name
    for colour, sign in (("white", 1), ("black", -1)):
        kings, pawns = position.squares_of(sign * KING), position.squares_of(sign * PAWN)
        count = sum(man * sign > 0 for man in position.men)
        if len(kings) != 1:
            found = f"{len(kings)} ({', '.join(map(name, kings))})" if kings else "none"
            due = f"write one {letter(sign * KING)}"
            raise BadRowError("placement", f"{colour} has not one king", found=found, due=due)
        edge = [pawn for pawn in pawns if pawn // n in (0, n - 1)]
        if edge:
            due = f"pawns stand on ranks 2 to {n - 1}"
            raise BadRowError("placement", f"a {colour} pawn is on a last rank", found=name(edge[0]), due=due)
        if len(pawns) > n:
            raise BadRowError("placement", f"{colour} has too many pawns", found=str(len(pawns)), due=f"{n} at most")
        if count > 2 * n:
            raise BadRowError("placement", f"{colour} has too many men", found=str(count), due=f"{2 * n} at most")


def _refuse_checks(position: Position) -> None:
    board, name = position.board, position.board.name
    (white,), (black,) = position.squares_of(KING), position.squares_of(-KING)
    if board.distance[white, black] == 1:
        raise BadRowError("placement", "the kings are adjacent", found=f"{name(white)} and {name(black)}")
    mover, king, other = ("white", white, black) if position.white_to_move else ("black", black, white)
    taking = attackers(position, other, position.white_to_move)
    if taking:
        raise BadRowError(
            "side to move",
            f"{mover} could take the king on {name(other)}",
            found=", ".join(map(name, taking)),
            due="the side that is not to move is never in check",
        )
    checks = attackers(position, king, not position.white_to_move)
    if len(checks) > 2:
        found = f"{len(checks)} ({', '.join(map(name, checks))})"
        raise BadRowError("placement", f"more than two men give check to {name(king)}", found=found)


def _refuse_castling(position: Position) -> None:
    if position.castling and position.side != 8:
        due = f"write -; there is no castling on {position.side} x {position.side}"
        raise BadRowError("castling", "is a right of 8 x 8 alone", found=position.castling, due=due)
    for right in position.castling:
        sign, rank = (1, "1") if right.isupper() else (-1, "8")
        homes = {f"e{rank}": sign * KING, f"{'h' if right in 'Kk' else 'a'}{rank}": sign * ROOK}
        for home, man in homes.items():
            there = position.men[position.board.square(home)]
            if there != man:
                found = letter(there) if there else "nothing"
                reason = f"{right} needs {letter(man)} on {home}"
                raise BadRowError("castling", reason, found=found, due="leave the right out")


def _refuse_en_passant(position: Position, square: int) -> None:
    n, name = position.side, position.board.name
    forward = n if position.white_to_move else -n  # from the mover's point of view
    rank = n - 3 if position.white_to_move else 2
    if square // n != rank:
        mover = "white" if position.white_to_move else "black"
        due = f"with {mover} to move it is on rank {rank + 1}"
        raise BadRowError("en passant", "is on a rank that no pawn has just passed", found=name(square), due=due)
    passed = position.men[square - forward]
    pawn = -PAWN if position.white_to_move else PAWN
    if passed != pawn or position.men[square] or position.men[square + forward]:
        due = f"it needs {letter(pawn)} on {name(square - forward)}, {name(square)} and {name(square + forward)} empty"
        raise BadRowError("en passant", "no pawn has just passed there", found=name(square), due=due)
