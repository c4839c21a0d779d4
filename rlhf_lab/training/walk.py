"""The compiled walk on a finite world: world and policy are tables, and one kernel plays all runs, rows and steps.

Each random number depends on (seed, row, step, collect) alone, so that windows of 2 + 3 steps equal one of 5.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numba
import numpy as np

from rlhf_lab.random import philox, uniform
from rlhf_lab.worlds.protocol import ExactWorld

__all__ = [
    "DONE",
    "NEW",
    "Columns",
    "PolicyTables",
    "Tables",
    "draw_action",
    "draw_index",
    "gaussian",
    "tabulate",
    "walk",
]

NEW: Final = -1  # state of a row between two episodes: its next step begins with a draw of the start state
DONE: Final = -2  # state of a row whose only episode is over
_STEP: Final = np.uint64(0)  # last word of the counter: what the numbers are for
_START: Final = np.uint64(1)


class Tables(NamedTuple):
    """A world in the form from which it is sampled: the successors of each (state, action) one after the other."""

    offsets: Any  # [states * actions + 1] where the successors of a pair begin
    successors: Any  # [n] state numbers
    cumulative: Any  # [n] cumulative probabilities within a pair, the last one 1
    payoffs: Any  # [worlds, n] mean rewards; one world, or one per run
    starts: Any  # [states] cumulative probabilities of the start state
    terminal: Any  # [states]


class PolicyTables(NamedTuple):
    """An actor in tables, one row per state."""

    log_probs: Any  # [runs, states, actions]
    probabilities: Any  # [runs, states, actions]
    values: Any  # [runs, states]; zeros without a critic


class Columns(NamedTuple):
    """What happened, each ``[runs, rows, t]``; zeros where not valid."""

    states: Any
    actions: Any
    rewards: Any
    log_probs: Any
    values: Any
    next_values: Any
    terminated: Any
    truncated: Any
    valid: Any


def tabulate(world: ExactWorld) -> Tables:
    """Return the sampling tables of ``world``."""
    branches = world.branches
    offsets, start = branches.offsets.numpy(), world.start.numpy()
    cumulative = _cumulate(offsets, branches.probabilities.numpy())
    payoffs = np.ascontiguousarray(branches.rewards.reshape(-1, len(cumulative)).numpy())
    starts = np.cumsum(start)
    starts[np.flatnonzero(start)[-1] :] = 1.0
    return Tables(offsets, branches.successors.numpy(), cumulative, payoffs, starts, world.terminal.numpy())


@numba.njit(cache=True)
def _cumulate(offsets: Any, probabilities: Any) -> Any:
    """Return the cumulative probabilities within each pair, the last one 1: no rounding may lead past it."""
    cumulative = np.empty_like(probabilities)
    for pair in range(len(offsets) - 1):
        total = 0.0
        for branch in range(offsets[pair], offsets[pair + 1]):
            total += probabilities[branch]
            cumulative[branch] = 1.0 if branch + 1 == offsets[pair + 1] else total
    return cumulative


@numba.njit(inline="always", cache=True)
def draw_action(probabilities: Any, run: int, state: int, u: float) -> int:
    """Return the action of ``probabilities[run, state]`` in whose share of (0, 1) ``u`` lies.

    Never one without a share. Without a jump out of the loop, which a processor would guess wrong half of the time.
    """
    below, chosen = 0.0, 0
    for action in range(probabilities.shape[2]):
        probability = probabilities[run, state, action]
        if probability > 0 and u >= below:
            chosen = action
        below += probability
    return chosen


@numba.njit(inline="always", cache=True)
def draw_index(cumulative: Any, first: int, u: float) -> int:
    """Return the index from ``first`` on at which ``cumulative`` passes ``u``."""
    while u >= cumulative[first]:
        first += 1
    return first


@numba.njit(inline="always", cache=True)
def gaussian(word: Any, other: Any) -> float:
    """Return a standard normal number made of two 32-bit words (Box and Muller 1958, eq. 1)."""
    return np.sqrt(-2 * np.log(uniform(word))) * np.cos(2 * np.pi * uniform(other))  # type: ignore[no-any-return]


@numba.njit(cache=True)
def walk(
    tables: Any, policy: Any, keys: Any, collect: int, first: int, limit: int, noise: float, restart: bool,
    siblings: int, state: Any, age: Any, out: Any,
) -> None:  # fmt: skip
    """Walk every row for ``out``'s number of steps from ``state``, ``age``, which are moved on in place.

    Rows come in groups of ``siblings``, which share what is drawn of their start states.
    """
    offsets, successors, cumulative, payoffs, starts, terminal = tables
    table, probabilities, critic = policy
    states, actions, rewards, log_probs, values, next_values, terminated, truncated, valid = out
    runs, rows, steps = states.shape
    third = np.uint64(collect)
    for run in range(runs):
        world = run % payoffs.shape[0]
        k0, k1 = keys[run, 0], keys[run, 1]
        for row in range(rows):
            now, taken = state[run, row], age[run, row]
            for t in range(steps):
                if now == DONE:
                    break
                if now == NEW:
                    word, _, _, _ = philox(np.uint64(row // siblings), np.uint64(first + t), third, _START, k0, k1)
                    now, taken = draw_index(starts, 0, uniform(word)), 0
                w0, w1, w2, w3 = philox(np.uint64(row), np.uint64(first + t), third, _STEP, k0, k1)
                action = draw_action(probabilities, run, now, uniform(w0))
                index = draw_index(cumulative, offsets[now * table.shape[2] + action], uniform(w1))
                reward = payoffs[world, index]
                if noise > 0:
                    reward += noise * gaussian(w2, w3)
                after = successors[index]
                taken += 1
                end = terminal[after]
                cut = not end and taken >= limit
                states[run, row, t] = now
                actions[run, row, t] = action
                rewards[run, row, t] = reward
                log_probs[run, row, t] = table[run, now, action]
                values[run, row, t] = critic[run, now]
                if not end:
                    next_values[run, row, t] = critic[run, after]
                terminated[run, row, t] = end
                truncated[run, row, t] = cut
                valid[run, row, t] = True
                now = (NEW if restart else DONE) if end or cut else after
            state[run, row], age[run, row] = now, taken
