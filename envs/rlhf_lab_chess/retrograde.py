"""How many plies a won ending takes under best play of both sides, by retrograde analysis.

Distance to mate (DTM) counts plies, white's and black's: 0 is mate. White hurries, black delays; draws have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rlhf_lab_chess.successors import DEAD, NONE, Replies

__all__ = ["DRAW", "Distances", "distances"]

DRAW: Final = -1

Distances = NDArray[np.int8]


def distances(
    moves: Mapping[str, NDArray[np.int32]], man: str, replies: Replies, promoted: Mapping[str, Distances]
) -> tuple[Distances, Distances]:
    """Return the DTM of every position of ``man`` with white, and with black to move; ``DRAW`` where there is none.

    ``moves [m,slots]`` are white's by the man behind them, ``promoted`` the DTM of the positions with another man and
    black to move that they lead to.

    White wins in i moves where a move leads to a position that is lost in 2i - 2 plies, and black has lost in 2i plies
    where every answer leads to a position that white wins in at most 2i - 1. Each sweep over i asks only positions that
    are undecided.
    """
    answers = replies.numbers
    stuck = (answers == NONE).all(1)
    lost: Any = np.where(stuck & replies.checked, 0, DRAW).astype(np.int8)
    won: Any = np.full(len(moves[man]), DRAW, dtype=np.int8)
    open_black = np.flatnonzero(~stuck & (answers != DEAD).all(1))
    open_white = np.arange(len(won))
    known = {**promoted, man: lost}
    last = max(int(each.max()) for each in known.values())
    for ply in range(0, 127, 2):
        wins = np.zeros(len(open_white), dtype=np.bool_)
        for behind, black in known.items():
            # numbers below 0 stand for no position: the last place, which is never lost
            lost_now = np.append(black == ply, [False, False])
            wins |= lost_now[moves[behind][open_white]].any(1)
        if not wins.any() and ply > last:
            return won, lost
        won[open_white[wins]] = ply + 1
        open_white = open_white[~wins]
        escapes = np.append(won == DRAW, False)[answers[open_black]].any(1)
        lost[open_black[~escapes]] = ply + 2
        open_black = open_black[escapes]
    raise AssertionError("an ending longer than 126 plies does not fit into int8")
