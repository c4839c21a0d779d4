"""An ending against a known opponent, with a reward, as an exact world."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.ending import CHECKMATE, INSUFFICIENT, OVER, STALEMATE, Ending
from rlhf_lab_chess.opponents import Chances
from rlhf_lab_chess.rewards import EndingReward, Payments, RewardTask
from rlhf_lab_chess.successors import DEAD, NONE

__all__ = ["make_world"]


def make_world(ending: Ending, chances: Chances, reward: EndingReward, start: Tensor, gamma: float) -> TurnWorld:
    """Return the world of an ending: ``chances [b,8]`` of black's answers, ``start [states]`` probabilities.

    Its states are the ending's; the last three are mate, stalemate and insufficient material. Its positions are those
    with black to move, and one more behind them, in which white can no longer mate.
    """
    moves, replies, all_chances = _links(ending, chances)

    def solve(payments: Payments) -> TurnWorld:
        own, answered = _paid(ending, payments)
        return TurnWorld(moves, replies, all_chances, own, answered, start, _ends(ending), gamma)

    return solve(reward(RewardTask(ending, gamma, solve)))


def _links(ending: Ending, chances: Chances) -> tuple[Tensor, Tensor, Tensor]:
    """Return where moves and answers lead, and the answers' chances; what ends a game leads to its end."""
    first, dead = len(ending.white), len(ending.black)
    moves = np.full((ending.states, ending.moves.shape[1]), NONE, dtype=np.int32)
    moves[:first] = np.where(ending.moves == DEAD, dead, ending.moves)
    replies = np.full((dead + 1, ending.replies.shape[1]), NONE, dtype=np.int32)
    replies[:dead] = np.where(ending.replies == DEAD, first + INSUFFICIENT, ending.replies)
    replies[:dead, 0][ending.stuck] = np.where(ending.checked, first + CHECKMATE, first + STALEMATE)[ending.stuck]
    replies[dead, 0] = first + INSUFFICIENT
    probabilities = np.zeros(replies.shape)
    probabilities[:dead] = chances
    probabilities[:dead, 0][ending.stuck] = 1
    probabilities[dead, 0] = 1
    return torch.from_numpy(moves), torch.from_numpy(replies), torch.from_numpy(probabilities)


def _paid(ending: Ending, payments: Payments) -> tuple[Tensor, Tensor]:
    own = np.zeros((ending.states, ending.moves.shape[1]))
    own[: len(ending.white)] = payments.moves
    answered = np.zeros((len(ending.black) + 1, ending.replies.shape[1]))
    answered[:-1] = payments.replies
    return torch.from_numpy(own), torch.from_numpy(answered)


def _ends(ending: Ending) -> dict[str, Tensor]:
    """Return the states in which the game is over, by how; positions in which white has no move are stalemate, too."""
    first = len(ending.white)
    found: dict[str, NDArray[np.bool_]] = {}
    for number, name in enumerate(OVER):
        found[name] = np.zeros(ending.states, dtype=np.bool_)
        found[name][first + number] = True
    found[OVER[STALEMATE]][:first] = (ending.moves == NONE).all(1)
    return {name: torch.from_numpy(mask) for name, mask in found.items()}
