"""One game of turns, without leading axes: what a policy is worth there, how it ends, and the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rlhf_lab.worlds.protocol import WorldError
from rlhf_lab.worlds.sweeps import Rows, act, attract, back_up, choose, improve, weigh
from rlhf_lab.worlds.turn_chain import LONG, RESIDUAL, Flags, Floats, TurnChain

__all__ = ["SingleGame"]

_SWEEPS: Final = 100  # of value iteration, which is tried first: short games are solved by that
_BETTER: Final = 1e-13  # relative; smaller differences of discounted action values are rounding
_UNDOUBTED: Final = 1e-10  # the same where nothing is discounted, and rounding must not close a loop
_MAX_IMPROVEMENTS: Final = 200  # never met; tens are usual


@dataclass(frozen=True, eq=False)
class SingleGame:
    """The tables of a ``TurnWorld`` for one run, in NumPy; policies ``[s,a]`` have zero rows at terminal states."""

    moves: NDArray[np.int32]  # [s,a]
    replies: Rows  # position to state
    own: Floats  # [s,a] paid for an action
    answers: Floats  # [p] mean pay of a reply
    terminal: Flags  # [s]
    gamma: float

    def chain(self, policy: Floats) -> tuple[TurnChain, Floats]:
        """Return a ``policy [s,a]`` at work, and its expected rewards ``[s]``."""
        return self._chain(*act(self.moves, self.own, policy))

    def action_values(self, values: Floats) -> Floats:
        """Return Q ``[s,a]`` for ``values [s]`` of what follows; -inf for illegal actions, 0 at terminal states."""
        table = np.empty(self.moves.shape)
        back_up(self.moves, self.own, self._after(values), table)
        return table

    def optimal_values(self) -> Floats:
        """Return V* ``[s]``.

        Discounted: by value iteration where that is fast, else by policy iteration from its best guess; no action is
        better by more than 1e-13 of the largest value then. Else: by policy iteration from the uniform policy, where
        an action is changed only for one that is better by 1e-10 of the largest value, so that no policy on the way
        loops unless looping pays. Where the uniform one may enter a loop that costs, it is left for an action with
        which episodes surely end; a state that has none keeps -inf, even if it could reach loops that cost nothing.
        What may end in a loop that costs or in one that pays, by chance, counts as -inf.

        Raises ``WorldError`` where a policy on the way cannot be evaluated.
        """
        discounted = (1 - self.gamma) * LONG >= 1
        chosen = np.full(len(self.moves), -1)
        values, best = np.zeros(len(self.moves)), np.zeros(len(self.moves))
        for _ in range(_SWEEPS if discounted else 0):
            improve(self.moves, self.own, self._after(values), values, -np.inf, chosen, best)
            gap, values, best = np.abs(best - values).max(), best, values
            if gap <= RESIDUAL * np.abs(values).max():
                return values
        margin = _BETTER if discounted else _UNDOUBTED
        for improvement in range(_MAX_IMPROVEMENTS):
            chain, rewards = self._chain(*choose(self.moves, self.own, chosen))
            values = _cautious(chain.totals(rewards, values))
            lost = values == -np.inf
            if improvement == 0 and lost.any():
                chosen = np.where(lost, attract(self.moves, self.replies, self.terminal), chosen)
                continue
            scale = np.abs(values[np.isfinite(values)]).max(initial=0.0)
            after = _cautious(self._after(values))
            if not improve(self.moves, self.own, after, values, margin * scale, chosen, best):
                return values
        raise WorldError(f"optimal_values: still better policies after {_MAX_IMPROVEMENTS} improvements")

    def _chain(self, moves: Rows, own: Floats) -> tuple[TurnChain, Floats]:
        answers = np.empty_like(own)
        weigh(moves, self.answers, answers)
        return TurnChain(moves, self.replies, self.terminal, self.gamma), own + answers

    def _after(self, values: Floats) -> Floats:
        """Return what is to come after each move, ``[p]``."""
        after = np.empty_like(self.answers)
        weigh(self.replies, values, after)
        after *= self.gamma
        return self.answers + after


def _cautious(values: Floats) -> Floats:
    """Return ``values`` with -inf for NaN, which no comparison would find."""
    return np.where(np.isnan(values), -np.inf, values)
