"""How black answers: the players that a learner may meet, each a known distribution over the king's steps.

Black has nothing but a king, so that a draw is the best that it can reach: it prefers one to any delay, and of two
lost answers the one after which mate takes longer.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlhf_lab.components import Component
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.retrograde import DRAW
from rlhf_lab_chess.successors import NONE

__all__ = ["EpsilonOptimal", "Opponent", "OptimalDefence", "RandomReplies", "SoftmaxDefence"]

Chances = NDArray[np.float64]


class Opponent(Component):
    """Base of the players of black: ``(ending) -> chances [b,8]`` of each answer; rows of zeros where there is none."""

    role: ClassVar[str] = "opponent"

    @abstractmethod
    def __call__(self, ending: Ending) -> Chances: ...


class RandomReplies(Opponent):
    """Every legal answer is equally likely."""

    name = "random"

    def __call__(self, ending: Ending) -> Chances:
        return _shares(ending.replies != NONE)


class OptimalDefence(Opponent):
    """The answer that draws, or that delays mate longest; equally good ones are equally likely.

    Source: distance to mate, by retrograde analysis (Ströhlein 1970, Thompson 1986).
    """

    name = "optimal"
    reference = "Thompson 1986, Retrograde analysis of certain endgames"

    def __call__(self, ending: Ending) -> Chances:
        worth = _worth(ending)
        return _shares((worth == worth.max(1, keepdims=True)) & np.isfinite(worth))


class EpsilonOptimal(Opponent):
    """The optimal defence with probability 1 - ε, any legal answer otherwise."""

    name = "epsilon_optimal"
    epsilon: float = Field(default=0.1, ge=0, le=1, description="probability of an answer at random")

    def __call__(self, ending: Ending) -> Chances:
        return (1 - self.epsilon) * OptimalDefence()(ending) + self.epsilon * RandomReplies()(ending)


class SoftmaxDefence(Opponent):
    """Answers with probability in proportion to exp(u / τ), where u is the number of moves to mate behind them.

    An answer that draws counts as one move more than the longest mate of the ending. τ → 0 is the optimal defence,
    τ → ∞ the random one.
    """

    name = "softmax_dtm"
    temperature: float = Field(default=1.0, gt=0, description="τ, in moves to mate")

    def __call__(self, ending: Ending) -> Chances:
        worth = _worth(ending) / self.temperature
        best = worth.max(1, keepdims=True)
        weights = np.exp(worth - np.where(np.isfinite(best), best, 0))
        total = weights.sum(1, keepdims=True)
        return weights / np.where(total > 0, total, 1)


def _worth(ending: Ending) -> NDArray[np.float64]:
    """Return the moves to mate behind each answer ``[b,8]``, -inf where there is none; a draw is above them all."""
    moves = (ending.won.astype(np.float64) + 1) / 2
    draw = moves.max() + 1
    moves[ending.won == DRAW] = draw
    # numbers below 0 take the last places: DEAD is a draw, NONE no answer
    behind = np.concatenate([moves, [draw, -np.inf]])
    found: Chances = behind[ending.replies]
    return found


def _shares(chosen: NDArray[np.bool_]) -> Chances:
    """Return equal shares of the chosen answers ``[b,8]``."""
    count = chosen.sum(1, keepdims=True)
    return np.asarray(chosen / np.maximum(count, 1))
