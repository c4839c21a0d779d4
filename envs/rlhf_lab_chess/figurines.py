"""The six men as vector shapes of our own, in a box of 100 x 100 with y downwards.

A man is an outline, whose parts overlap and are filled as one, and lines drawn upon it. All parts run clockwise, so
that none cuts a hole into another.
"""

from __future__ import annotations

from typing import Final

from rlhf_lab_chess.geometry import BISHOP, KING, KNIGHT, PAWN, QUEEN, ROOK

__all__ = ["LINES", "OUTLINES"]

_FOOT: Final = "M23 89V83Q23 77 29 77H71Q77 77 77 83V89Z"


def _disc(x: float, y: float, radius: float) -> str:
    turn = f"a{radius} {radius} 0 1 1 0"
    return f"M{x} {y - radius}{turn} {2 * radius}{turn} {-2 * radius}Z"


_POINTS: Final = ((17, 31), (33, 21), (50, 17), (67, 21), (83, 31))  # of the queen's crown

OUTLINES: Final = {
    PAWN: _disc(50, 35, 13) + "M36 51Q36 46 41 46H59Q64 46 64 51Q64 55 59 55H41Q36 55 36 51Z"
    "M43 53H57C58 65 66 70 70 79H30C34 70 42 65 43 53Z" + _FOOT,
    KNIGHT: "M29 79C29 66 40 60 47 50C43 53 39 55 35 57C33 62 28 64 24 62C18 59 17 54 20 49C24 43 27 37 30 31"
    "C31 27 34 23 37 20L39 10L47 17C63 20 76 37 72 79Z" + _FOOT,
    BISHOP: _disc(50, 16, 5.5) + "M50 20C63 29 68 40 66 50C65 56 61 60 57 62H43C39 60 35 56 34 50C32 40 37 29 50 20Z"
    "M36 64Q36 60 40 60H60Q64 60 64 64Q64 68 60 68H40Q36 68 36 64Z"
    "M43 66H57C58 72 64 75 68 79H32C36 75 42 72 43 66Z" + _FOOT,
    ROOK: "M26 18H35V27H45V18H55V27H65V18H74V37L64 44L66 68L72 79H28L34 68L36 44L26 37Z" + _FOOT,
    QUEEN: "M29 66L17 32L34 50L33 23L44 47L50 18L56 47L67 23L66 50L83 32L71 66Z"
    + "".join(_disc(x, y, 4.5) for x, y in _POINTS)
    + "M29 64H71L68 71L72 79H28L32 71Z"
    + _FOOT,
    KING: "M46.5 9H53.5V14H58.5V20.5H53.5V32H46.5V20.5H41.5V14H46.5Z"
    "M33 66C17 54 14 42 24 36C34 31 45 37 50 47C55 37 66 31 76 36C86 42 83 54 67 66Z"
    "M50 26C57 31 58 40 50 52C42 40 43 31 50 26Z"
    "M30 64H70L68 71L72 79H28L32 71Z" + _FOOT,
}
"""Path of each man's outline."""

LINES: Final = {
    PAWN: "",
    KNIGHT: "M36 32L40 30M24 54L26 53M53 27C62 36 65 50 63 67",
    BISHOP: "M54 31L47 44M41 64H59",
    ROOK: "M37 44H63M35 68H65",
    QUEEN: "M33 65Q50 60 67 65M34 71.5H66",
    KING: "M50 48V61M34 65Q50 60 66 65M34 71.5H66",
}
"""Path of the lines drawn upon it."""
