"""What an ending pays: the referee's word at the end, material as the source text has it, its potential, or a coach.

Every reward here is the referee's, ``win`` and ``draw``, and something beside it for moves and answers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlhf_lab.components import RewardFunction
from rlhf_lab.worlds.turns import TurnWorld
from rlhf_lab_chess.ending import Ending
from rlhf_lab_chess.successors import DEAD, KING_SLOTS, NONE

__all__ = [
    "Coach",
    "EndingReward",
    "MaterialReward",
    "Outcome",
    "Payments",
    "PotentialMaterial",
    "RewardTask",
    "StepCost",
]

Table = NDArray[np.float64]

WORTH: Final = {"P": 1, "N": 3, "B": 3, "R": 5, "Q": 9}
"""The usual values of the men, in pawns."""


@dataclass(frozen=True, eq=False)
class RewardTask:
    """What a reward is asked about: an ending, its discount, and ``solve``, the exact world that rewards make of it."""

    ending: Ending
    gamma: float
    solve: Callable[[Payments], TurnWorld]


@dataclass(frozen=True, eq=False)
class Payments:
    """What is paid for white's moves ``[w,slots]``, and for black's answers ``[b,8]``; 0 where there is no move."""

    moves: Table
    replies: Table

    def __add__(self, other: Payments) -> Payments:
        return Payments(self.moves + other.moves, self.replies + other.replies)


class EndingReward(RewardFunction):
    """Base of the rewards of endings: what the referee says, and ``extra`` beside it."""

    win: float = Field(default=1.0, description="paid for mate")
    draw: float = Field(default=0.0, description="paid for a stalemate, and where the man is lost or cannot mate")

    def __call__(self, task: RewardTask) -> Payments:
        """Return what every move and answer pays."""
        return referee(task.ending, self.win, self.draw) + self.extra(task)

    @abstractmethod
    def extra(self, task: RewardTask) -> Payments:
        """Return what is paid beside the referee's word."""


class Outcome(EndingReward):
    """The referee alone: ``win`` for mate, ``draw`` for a draw, nothing before."""

    name = "outcome"

    def extra(self, task: RewardTask) -> Payments:
        return _nothing(task.ending)


class StepCost(EndingReward):
    """The referee, and a price of every move, so that short games are worth more."""

    name = "step_cost"
    cost: float = Field(default=0.01, ge=0, description="taken for every move of white's")

    def extra(self, task: RewardTask) -> Payments:
        legal = task.ending.moves != NONE
        return Payments(np.where(legal, -self.cost, 0.0), np.zeros(task.ending.replies.shape))


class MaterialReward(EndingReward):
    """The referee, and the change of material on the board: ``weight`` for each pawn's worth won, or lost.

    A promotion wins the difference to a pawn, a man that is taken loses its worth. It is the encouragement for captures
    of which the source text speaks; against a bare king white can but promote. With a pawn it changes the optimal
    policy: a queen and stalemate may be paid more than a rook and mate.
    """

    name = "material"
    reference = "Shannon 1950, Programming a computer for playing chess, section 3 (values of the men)"
    weight: float = Field(default=1.0, description="reward per pawn's worth")

    def extra(self, task: RewardTask) -> Payments:
        ending = task.ending
        before, after = _worths(ending)
        replies = np.where(ending.replies == DEAD, -_of(ending, ending.black_man)[:, None], 0.0)
        return Payments(
            self.weight * np.where(ending.moves != NONE, after - before[:, None], 0.0), self.weight * replies
        )


class PotentialMaterial(EndingReward):
    """The referee, and the shaping γ φ(s') - φ(s) with φ = ``weight`` · material, 0 where the game is over.

    Over a game it telescopes to -φ of the first position, whatever is played: Q* falls by φ(s), and the optimal policy
    stays as it is.

    Source: Ng, Harada and Russell 1999, Policy invariance under reward transformations, theorem 1.
    """

    name = "potential_material"
    reference = "Ng, Harada and Russell 1999, theorem 1"
    weight: float = Field(default=1.0, description="potential per pawn's worth")

    def extra(self, task: RewardTask) -> Payments:
        ending = task.ending
        potential = self.weight * _of(ending, ending.white_man) * (ending.moves != NONE).any(1)
        following = np.concatenate([potential, [0.0, 0.0]])[ending.replies]  # the last places: DEAD and NONE
        moves = np.where(ending.moves != NONE, -potential[:, None], 0.0)
        return Payments(moves, task.gamma * following)


class Coach(EndingReward):
    """A coach beside the board: every move is paid ``weight`` · (Q*(s,a) - V*(s)) ≤ 0 by the table; 0 for the best.

    Q* and V* are those of a game that pays 1 for mate and 0 for a draw, against the same opponent, with the same
    discount. The referee says nothing unless asked to. Without a discount (γ = 1) delay costs nothing, and who never
    mates is paid as well as who does; take γ < 1.
    """

    name = "coach"
    win: float = Field(default=0.0, description="paid for mate")
    weight: float = Field(default=1.0, gt=0, description="reward per unit of the advantage")

    def extra(self, task: RewardTask) -> Payments:
        ending = task.ending
        truth = task.solve(referee(ending, 1.0, 0.0))
        best = truth.optimal_action_values()
        worth = (best - best.amax(-1, keepdim=True)).numpy()[: len(ending.moves)]
        return Payments(np.where(ending.moves != NONE, self.weight * worth, 0.0), np.zeros(ending.replies.shape))


def referee(ending: Ending, win: float, draw: float) -> Payments:
    """Return ``win`` for moves that mate, and ``draw`` for moves and answers that end the game otherwise."""
    verdict = np.where(ending.mated, win, np.where(ending.stuck, draw, 0.0))
    moves = np.concatenate([verdict, [draw, 0.0]])[ending.moves]  # the last places: DEAD and NONE
    halted = ~(ending.moves != NONE).any(1)  # white is stalemated
    replies = np.concatenate([np.where(halted, draw, 0.0), [draw, 0.0]])[ending.replies]
    return Payments(moves, replies)


def _nothing(ending: Ending) -> Payments:
    return Payments(np.zeros(ending.moves.shape), np.zeros(ending.replies.shape))


def _of(ending: Ending, kinds: NDArray[np.int8]) -> Table:
    """Return the worth of the man on the board."""
    return np.array([WORTH[man] for man in ending.men], dtype=np.float64)[kinds]


def _worths(ending: Ending) -> tuple[Table, Table]:
    """Return the worth of the man before ``[w]`` and behind each move ``[w,slots]``."""
    before = _of(ending, ending.white_man)
    behind = np.concatenate([_of(ending, ending.black_man), [0.0, 0.0]])[ending.moves]
    if "P" in ending.men:
        for slot, step in enumerate(ending.steps["P"], KING_SLOTS):
            if step.promotion in ("N", "B"):
                column: Any = behind[:, slot]
                column[ending.moves[:, slot] == DEAD] = WORTH[step.promotion]
    return before, behind
