"""What a linear policy sees of an ending: a few facts that a player would name, as zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.geometry import Board
from rlhf_lab_chess.successors import DEAD, NONE

__all__ = ["move_features", "position_features"]

Facts = NDArray[np.float32]


def position_features(ending: Ending) -> Tensor:
    """Return x(s) ``[states, d]`` of positions with white to move, zeros where the game is over, for a critic.

    A constant, the kings' distance, black's king's distances to the nearest edge and corner, the man's distance to it,
    whether the man can be taken, whether white's king guards it, and which man it is, a pawn by its rank.
    """
    facts = [np.ones((len(ending.white), 1)), *_common(ending, ending.white, ending.white_man)]
    found = np.zeros((ending.states, sum(x.shape[1] for x in facts)), dtype=np.float32)
    found[: len(ending.white)] = np.concatenate(facts, axis=1)
    return torch.from_numpy(found)


def move_features(ending: Ending) -> tuple[Tensor, Tensor]:
    """Return what is seen of the positions that moves lead to, ``[b + 1, d]``, and ``[states, slots]`` which one it is.

    The facts above, and how many answers black has, apart where it is in check, so that mate and stalemate are told;
    the last row is that of a pawn that became a knight or bishop.
    """
    answers = (ending.replies != NONE).sum(1)
    mobility = _one_hot(answers + 9 * ending.checked, 18)
    facts = np.concatenate([mobility, *_common(ending, ending.black, ending.black_man)], axis=1)
    found = np.zeros((len(facts) + 1, facts.shape[1] + 1), dtype=np.float32)
    found[:-1, :-1] = facts
    found[-1, -1] = 1
    rows = np.zeros((ending.states, ending.moves.shape[1]), dtype=np.int64)
    rows[: len(ending.white)] = np.where(ending.moves == DEAD, len(facts), np.maximum(ending.moves, 0))
    return torch.from_numpy(found), torch.from_numpy(rows)


def _common(ending: Ending, squares: Any, kinds: Any) -> list[NDArray[Any]]:
    board, side = ending.board, ending.board.side
    king, man, bare = squares.T
    near, guarded = board.distance[man, bare] == 1, board.distance[king, man] == 1
    ranks = board.ranks[man] * (kinds == ending.men.index("P")) if "P" in ending.men else 0 * man
    return [
        _one_hot(board.distance[king, bare], side),
        _one_hot(_to_edge(board)[bare], (side + 1) // 2),
        _one_hot(_to_corner(board)[bare], side),
        _one_hot(board.distance[man, bare], side),
        (near & ~guarded)[:, None],
        guarded[:, None],
        _one_hot(kinds, len(ending.men)),
        _one_hot(ranks, side)[:, 1:],
    ]


def _to_edge(board: Board) -> NDArray[np.int64]:
    along = [np.minimum(x, board.side - 1 - x) for x in (board.ranks, board.files)]
    return np.minimum(*along)


def _to_corner(board: Board) -> NDArray[np.int64]:
    along = [np.minimum(x, board.side - 1 - x) for x in (board.ranks, board.files)]
    return np.asarray(along[0] + along[1])


def _one_hot(numbers: Any, count: int) -> Facts:
    """Return ``[m, count]``; numbers beyond the last place count as it."""
    found: Facts = np.eye(count, dtype=np.float32)[np.minimum(numbers, count - 1)]
    return found
