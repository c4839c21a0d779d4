"""A position drawn: as lines of text, and as one SVG element that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rlhf_lab_chess.figurines import LINES, OUTLINES
from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.notation import write_fen, write_uci
from rlhf_lab_chess.placement import Position, letter

__all__ = ["Arrow", "ArrowRole", "draw_svg", "draw_text"]

ArrowRole = Literal["best", "played", "inaccuracy", "blunder"]

_FIGURINES: Final = dict(zip("KQRBNPkqrbnp.", "♔♕♖♗♘♙♚♛♜♝♞♟·", strict=True))
# Board and men keep their colours, whatever the page's: they stand out from each other, and from white and black paper.
_LIGHT, _DARK, _EDGE = "#e6e1d3", "#94a6a4", "#6a7776"
_WHITE, _BLACK = "#fffdf7", "#24282c"
_ROLES: Final[dict[ArrowRole, str]] = {  # of Okabe and Ito's palette, which colour-blind readers can tell apart
    "best": "#009e73",
    "played": "#0072b2",
    "inaccuracy": "#e69f00",
    "blunder": "#d55e00",
}
_SQUARE: Final = 100  # units of the drawing
_TAIL: Final = 37  # from the centre of an arrow's first square
_SHAFT, _HEAD, _BARB = 7, 36, 21  # half the shaft's width, length and half the width of the head


@dataclass(frozen=True)
class Arrow:
    """A move to be drawn, from square to square, what it is, and what a pawn becomes by it."""

    origin: int
    target: int
    role: ArrowRole
    promotion: int = 0


def draw_text(position: Position, black_below: bool = False) -> str:
    """Return the board as lines of text, with figurines, coordinates and who is to move."""
    side = position.side
    files, ranks = range(side), range(side - 1, -1, -1)
    if black_below:
        files, ranks = files[::-1], ranks[::-1]
    rows = [
        " ".join([str(rank + 1), *(_FIGURINES[letter(position.men[rank * side + file])] for file in files)])
        for rank in ranks
    ]
    names = " ".join([" ", *(position.board.name(file)[0] for file in files)])
    return "\n".join([*rows, names, f"{'white' if position.white_to_move else 'black'} to move"])


def draw_svg(
    position: Position, arrows: Sequence[Arrow] = (), title: str = "", black_below: bool = False, size: int = 360
) -> str:
    """Return an ``<svg>`` element ``size`` pixels wide, the same bytes for the same arguments.

    It names no id and no style sheet, so that many may stand on one page. What it says to those who do not see it, and
    when pointed at, is the title, the FEN and the arrows.
    """
    board, extent = position.board, position.side * _SQUARE
    said = [write_fen(position), *(f"{a.role} {write_uci(board, a.origin, a.target, a.promotion)}" for a in arrows)]
    label = html.escape("; ".join([title, *said] if title else said))
    width = extent + 4
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -2 {width} {width}" width="{size}" height="{size}" '
            f'role="img" aria-label="{label}"><title>{label}</title>',
            _squares(board, black_below),
            _coordinates(board, black_below),
            *(_man(board, square, man, black_below) for square, man in enumerate(position.men) if man),
            *(_arrow(board, arrow, black_below) for arrow in arrows),
            "</svg>",
        ]
    )


def _corner(board: Board, square: int, black_below: bool) -> tuple[int, int]:
    """Return the left upper corner of a square, (x, y)."""
    rank, file = divmod(square, board.side)
    column, row = (board.side - 1 - file, rank) if black_below else (file, board.side - 1 - rank)
    return column * _SQUARE, row * _SQUARE


def _squares(board: Board, black_below: bool) -> str:
    extent = board.side * _SQUARE
    corners = [_corner(board, s, black_below) for s in range(board.squares) if sum(divmod(s, board.side)) % 2 == 0]
    dark = "".join(f"M{x} {y}h{_SQUARE}v{_SQUARE}h-{_SQUARE}z" for x, y in corners)
    return (
        f'<rect x="-1" y="-1" width="{extent + 2}" height="{extent + 2}" fill="{_LIGHT}" stroke="{_EDGE}" '
        'stroke-width="2"/>'
        f'<path d="{dark}" fill="{_DARK}"/>'
    )


def _coordinates(board: Board, black_below: bool) -> str:
    """Return rank numbers in the squares at the left edge and file letters in those at the lower one."""
    last, font = board.squares - 1, board.side * _SQUARE // 36  # of one size on the screen, whatever the board's
    marks = []
    for i in range(board.side):
        left = i * board.side + (board.side - 1 if black_below else 0)
        lower = i + (last + 1 - board.side if black_below else 0)
        x, y = _corner(board, left, black_below)
        marks.append(f'<text x="{x + 5}" y="{y + 3 + font * 4 // 5}">{board.name(left)[1]}</text>')
        x, y = (z + _SQUARE for z in _corner(board, lower, black_below))
        marks.append(f'<text x="{x - 6}" y="{y - 7}" text-anchor="end">{board.name(lower)[0]}</text>')
    return f'<g font-family="sans-serif" font-size="{font}" font-weight="600" fill="#3c4746">{"".join(marks)}</g>'


def _man(board: Board, square: int, man: int, black_below: bool) -> str:
    x, y = _corner(board, square, black_below)
    fill, line = (_WHITE, _BLACK) if man > 0 else (_BLACK, _WHITE)
    upon = f'<path d="{LINES[abs(man)]}" fill="none" stroke="{line}" stroke-width="3.5"/>' if LINES[abs(man)] else ""
    # the stroke lies below the fill, so that the parts of an outline become one
    return (
        f'<g transform="translate({x} {y})" data-square="{board.name(square)}" data-man="{letter(man)}" '
        f'stroke-linejoin="round" stroke-linecap="round"><path d="{OUTLINES[abs(man)]}" fill="{fill}" '
        f'stroke="{_BLACK}" stroke-width="6" paint-order="stroke"/>{upon}</g>'
    )


def _arrow(board: Board, arrow: Arrow, black_below: bool) -> str:
    """Return an arrow as a polygon whose tip, its first point, is the centre of the target."""
    (x0, y0), (x1, y1) = (
        (x + _SQUARE / 2, y + _SQUARE / 2)
        for x, y in (_corner(board, square, black_below) for square in (arrow.origin, arrow.target))
    )
    length = math.hypot(x1 - x0, y1 - y0)
    along, across = ((x1 - x0) / length, (y1 - y0) / length), ((y0 - y1) / length, (x1 - x0) / length)
    shape = [(0, 0), (_HEAD, _BARB), (_HEAD, _SHAFT), (length - _TAIL, _SHAFT)]
    points = [(x1 - a * along[0] + b * across[0], y1 - a * along[1] + b * across[1])
              for a, b in [*shape, *((a, -b) for a, b in shape[:0:-1])]]  # fmt: skip
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polygon points="{drawn}" fill="{_ROLES[arrow.role]}" fill-opacity="0.9" stroke="{_WHITE}" '
        f'stroke-width="3" stroke-linejoin="round" data-role="{arrow.role}"/>'
    )
