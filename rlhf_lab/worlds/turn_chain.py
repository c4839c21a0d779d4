"""A policy at work in a game of turns: expected totals and visits, each certified by its residual.

The error of a solution x of (I - γ P) x = b is at most L |b - (I - γ P) x|, where L bounds an episode's expected
number of steps, discounted: 1 / (1 - γ), or what the same equation gives for b = 1, whose residual of at most 1/10
shows that it is wrong by a ninth or less. States from which no end can be reached are found in the graph and kept out.
Where L is too large, up to 2,500 states are handed to ``MarkovChain``, which needs no such bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_lab.worlds.chain import MarkovChain
from rlhf_lab.worlds.krylov import solve
from rlhf_lab.worlds.protocol import WorldError
from rlhf_lab.worlds.sweeps import Rows, dense, reach, spread, weigh

__all__ = ["LONG", "RESIDUAL", "Flags", "Floats", "TurnChain"]

LONG: Final = 1e5  # a lifetime in steps that sweeps tell from an endless one
RESIDUAL: Final = 1e-14  # relative to the largest value, or to the sum of all visits; less would be rounding
_CRUDE: Final = 0.1  # residual of the lifetimes
_PRODUCTS: Final = 10_000  # with P, for a solution; hundreds are usual
_SEARCH: Final = 1_000  # for the lifetimes
_DENSE: Final = 2_500  # states

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TurnChain:
    """The ``moves`` (state to position) of a policy, and the ``replies`` (position to state); ends at ``terminal [s]``.

    Solutions are certified to ``RESIDUAL`` times ``lifetime``, relative to the largest value, or to the sum of visits.
    Raises ``WorldError`` where episodes may last longer than ``LONG`` steps on the mean, or for ever where that
    matters, in more states than a dense solution can hold.
    """

    moves: Rows
    replies: Rows
    terminal: Flags
    gamma: float

    @cached_property
    def endless(self) -> Flags:
        """The states ``[s]`` from which no end can be reached; none where discounting is an end."""
        if self.gamma < 1:
            return np.zeros_like(self.terminal)
        marked = self.terminal.copy()
        reach(self.moves, self.replies, marked)
        return ~marked

    @cached_property
    def lifetime(self) -> float:
        """A bound of E Σ_t γ^t, over the steps from the worst state to an end or endless state; inf above ``LONG``."""
        if (1 - self.gamma) * LONG >= 1:
            return 1 / (1 - self.gamma)
        ones = self._passed.astype(np.float64)
        steps = ones.copy()
        if not solve(self.moves, self.replies, self.gamma, self._passed, False, ones, steps, _CRUDE, 0.0, _SEARCH):
            return np.inf
        longest = float(steps.max()) / (1 - _CRUDE)
        return longest if longest <= LONG else np.inf

    def totals(self, rewards: Floats, guess: Floats | None = None) -> Floats:
        """Return E Σ_t γ^t r(s_t) ``[s]`` for expected ``rewards [s]``, searched for from a ``guess [s]`` on.

        Undiscounted, a state that may enter a paid loop without end has +inf or -inf, by the sign of the loop's mean
        pay (NaN where both may happen); a loop that pays 0 in each of its states adds nothing.
        """
        live, known = self._passed, np.zeros_like(rewards)
        paid = self.endless & (rewards != 0)
        if paid.any():
            reach(self.moves, self.replies, paid)
            paid &= self.endless
            known[paid] = self._solve_densely(paid, rewards, transposed=False)
            above, below = ~(known < np.inf), ~(known > -np.inf)  # NaN is both
            for marked in (above, below):
                reach(self.moves, self.replies, marked)
            known[above], known[below], known[above & below] = np.inf, -np.inf, np.nan
            live = live & ~above & ~below
        finite = np.where(np.isfinite(known), known, 0.0)
        b = np.where(live, rewards + self.following(finite), 0.0)
        x = np.zeros_like(b) if guess is None else np.where(live & np.isfinite(guess), guess, 0.0)
        return known + self._solve(live, b, x, transposed=False)

    def visits(self, start: Floats) -> Floats:
        """Return E Σ_t γ^t 1[s_t = s] ``[s]`` for a ``start [s]``, 0 at terminal states; inf in a loop without end."""
        visits = self.passing(start)
        entered = np.where(self.endless, start + self.arrivals(visits), 0.0)
        if entered.any():
            visits[self.endless] = self._solve_densely(self.endless, entered, transposed=True)
        return visits

    def passing(self, start: Floats) -> Floats:
        """Return the ``visits [s]`` at states from which an end can be reached, 0 elsewhere.

        Above 0 wherever the ``start [s]`` may lead, even where that is less than a residual can tell.
        """
        b = np.where(self._passed, start, 0.0)
        visits = self._solve(self._passed, b, b.copy(), transposed=True)
        lost = self._passed & ~(visits > 0)  # by rounding, or never visited
        if lost.any():
            visits[lost] = np.where(self._entered(b > 0)[lost], np.finfo(np.float64).tiny, 0.0)
        return visits

    def following(self, values: Floats) -> Floats:
        """Return γ E V(s') ``[s]`` for ``values [s]``."""
        after, before = np.empty(len(self.replies.offsets) - 1), np.empty_like(values)
        weigh(self.replies, values, after)
        weigh(self.moves, after, before)
        return self.gamma * before

    def arrivals(self, mass: Floats) -> Floats:
        """Return where the ``mass [s]`` is one step later, times γ: ``[s]``."""
        between, after = np.empty(len(self.replies.offsets) - 1), np.empty_like(mass)
        spread(self.moves, mass, between)
        spread(self.replies, between, after)
        return self.gamma * after

    def _entered(self, marked: Flags) -> Flags:
        """Return which states ``[s]`` from which an end can be reached may follow the ``marked [s]``, and these."""
        while True:
            grown = marked | (self._passed & (self.arrivals(marked.astype(np.float64)) > 0))
            if (grown == marked).all():
                return marked
            marked = grown

    @cached_property
    def _passed(self) -> Flags:
        return ~self.terminal & ~self.endless

    def _solve(self, live: Flags, b: Floats, x: Floats, transposed: bool) -> Floats:
        """Return the solution among ``live [s]`` states, 0 elsewhere, searched for in ``x [s]``."""
        if not b.any():
            return np.zeros_like(b)
        if self.lifetime < np.inf:
            least = RESIDUAL * (np.abs(b).sum() if transposed else np.abs(b).max())
            if solve(self.moves, self.replies, self.gamma, live, transposed, b, x, least, RESIDUAL, _PRODUCTS):
                return x
        solution = np.zeros_like(b)
        solution[live] = self._solve_densely(live, b, transposed)
        return solution

    def _solve_densely(self, chosen: Flags, b: Floats, transposed: bool) -> Floats:
        """Return the solution at the ``chosen [s]`` states alone, ``[m]``; what leaves them ends."""
        count = int(chosen.sum())
        if count > _DENSE:
            raise WorldError(
                f"the policy's episodes may go on for ever, or for more than {LONG:,.0f} steps on the mean, in "
                f"{count:,} states, too many to be solved exactly (at most {_DENSE:,}); discount, with gamma at most "
                f"{1 - 1 / LONG}, or ask about a policy that ends"
            )
        table = torch.from_numpy(dense(self.moves, self.replies, np.flatnonzero(chosen)))
        chain = MarkovChain(table, torch.arange(count + 1) == count, self.gamma)
        known = torch.from_numpy(np.append(b[chosen], 0.0))
        solution: Floats = (chain.visits(known) if transposed else chain.totals(known)).numpy()
        return solution[:-1]
