"""Who plays white in records, and what the table says of every move."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.records import Game
from rlhf_lab_chess.retrograde import DRAW
from rlhf_lab_chess.successors import NONE

__all__ = ["BEST", "BLUNDER", "INACCURACY", "VERDICTS", "game_verdicts", "move_verdicts", "move_worths", "player"]

BEST, INACCURACY, BLUNDER = range(3)
VERDICTS: Final = ("best", "inaccuracy", "blunder")


def move_worths(ending: Ending) -> NDArray[np.float64]:
    """Return u(s,a) = - the moves to mate under best play, this one counted, ``[w,slots]``; -inf where not legal.

    A draw counts as one move more than the longest mate that a move may lead to. Many moves are equally good.
    """
    behind = ending.lost.astype(np.float64) / 2 + 1
    drawn = behind[ending.lost != DRAW].max() + 1
    behind[ending.lost == DRAW] = drawn
    # numbers below 0 take the last places: DEAD is a draw, NONE no move
    worths: NDArray[np.float64] = -np.concatenate([behind, [drawn, np.inf]])[ending.moves]
    return worths


def move_verdicts(ending: Ending) -> NDArray[np.int8]:
    """Return the table's verdict of every move ``[w,slots]``, the number of one of ``VERDICTS``; ``NONE`` if not legal.

    A blunder throws the win away, an inaccuracy delays mate; all else is best, in drawn positions every move. That is
    said of play against the best defence: against a weaker opponent an inaccuracy may have the largest Q*.
    """
    worths = move_worths(ending)
    best = worths.max(1, keepdims=True)
    won = (ending.won != DRAW)[:, None]
    behind = np.concatenate([ending.lost, [DRAW, DRAW]])[ending.moves]
    verdicts = np.where(worths == best, BEST, np.where(won & (behind == DRAW), BLUNDER, INACCURACY)).astype(np.int8)
    return np.where(ending.moves == NONE, np.int8(NONE), verdicts)


def game_verdicts(ending: Ending, games: Iterable[Game]) -> list[list[str]]:
    """Return the table's verdict, one of ``VERDICTS``, of each move of the side with the man, game by game."""
    verdicts = move_verdicts(ending)
    return [[VERDICTS[number] for number in verdicts[list(game.states), list(game.slots)]] for game in games]


def player(ending: Ending, strength: float) -> Tensor:
    """Return the policy π(a|s) ∝ exp(strength · u(s,a)) ``[states, slots]``; where the game is over all slots alike.

    ``strength`` 0 plays any legal move, a large one the best moves only, a negative one prefers bad moves.
    """
    worths = torch.from_numpy(move_worths(ending))
    policy = torch.full((ending.states, worths.shape[1]), 1 / worths.shape[1], dtype=torch.float64)
    playing = torch.from_numpy((ending.moves != NONE).any(1))
    # times a finite number, so that what is not legal stays at -inf
    weights = torch.where(worths.isfinite(), strength * worths.nan_to_num(neginf=0), -torch.inf)
    policy[: len(worths)][playing] = weights[playing].softmax(-1)
    return policy
