"""Compiled sweeps over a game of turns, whose agent and other player move by sparse rows of probabilities.

One step of the agent is a product with the rows of its moves (state to position) and with those of the replies
(position to state). No kernel knows of several runs, so that a run's bits never depend on other runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

__all__ = ["Rows", "act", "attract", "back_up", "choose", "dense", "improve", "reach", "spread", "step", "weigh"]


class Rows(NamedTuple):
    """A sparse matrix of probabilities above 0, row by row."""

    offsets: Any  # [rows + 1] where each row begins
    columns: Any  # [n] int32
    values: Any  # [n] float64


@numba.njit(cache=True)
def weigh(rows: Any, x: Any, out: Any) -> None:
    """Set ``out`` to the means of ``x`` under each row."""
    for row in range(len(rows.offsets) - 1):
        total = 0.0
        for i in range(rows.offsets[row], rows.offsets[row + 1]):
            total += rows.values[i] * x[rows.columns[i]]
        out[row] = total


@numba.njit(cache=True)
def spread(rows: Any, x: Any, out: Any) -> None:
    """Set ``out`` to where the mass ``x`` of the rows goes."""
    out[:] = 0
    for row in range(len(rows.offsets) - 1):
        if x[row] != 0:
            for i in range(rows.offsets[row], rows.offsets[row + 1]):
                out[rows.columns[i]] += rows.values[i] * x[row]


@numba.njit(cache=True)
def step(moves: Any, replies: Any, gamma: float, live: Any, transposed: bool, x: Any, buffer: Any, out: Any) -> None:
    """Set ``out`` to γ P x, or γ Pᵀ x where ``transposed``, at ``live [s]`` states and to 0 elsewhere.

    ``x [s]`` must be 0 elsewhere; ``buffer [p]`` is written over.
    """
    if transposed:
        spread(moves, x, buffer)
        spread(replies, buffer, out)
    else:
        weigh(replies, x, buffer)
        weigh(moves, buffer, out)
    for state in range(len(out)):
        out[state] = gamma * out[state] if live[state] else 0.0


@numba.njit(cache=True)
def reach(moves: Any, replies: Any, marked: Any) -> None:
    """Mark every state from which a state of ``marked [s]`` can be reached."""
    positions = np.zeros(len(replies.offsets) - 1, dtype=np.bool_)
    while _mark(replies, marked, positions) and _mark(moves, positions, marked):
        pass


@numba.njit(cache=True)
def _mark(rows: Any, columns: Any, marked: Any) -> bool:
    """Mark the rows that lead to a marked column; return whether there are new ones."""
    grown = False
    for row in range(len(marked)):
        if not marked[row]:
            for i in range(rows.offsets[row], rows.offsets[row + 1]):
                if columns[rows.columns[i]]:
                    marked[row] = grown = True
                    break
    return grown


@numba.njit(cache=True)
def attract(moves: Any, replies: Any, terminal: Any) -> Any:
    """Return for each state an action ``[s]`` with which an end is reached surely, sooner or later; -1 where none is.

    A position will do where no reply leaves the states that still will do, and some reply comes nearer to an end.
    """
    kept = np.ones(len(terminal), dtype=np.bool_)
    while True:
        reached, chosen, grown = terminal.copy(), np.full(len(terminal), -1), True
        while grown:
            near = np.zeros(len(replies.offsets) - 1, dtype=np.bool_)
            for position in range(len(near)):
                after = replies.columns[replies.offsets[position] : replies.offsets[position + 1]]
                near[position] = kept[after].all() and reached[after].any()
            grown = False
            for state in range(len(terminal)):
                for action in range(moves.shape[1]):
                    if not reached[state] and moves[state, action] >= 0 and near[moves[state, action]]:
                        reached[state] = grown = True
                        chosen[state] = action
        if (reached == kept).all():
            return chosen
        kept = reached


@numba.njit(cache=True)
def dense(moves: Any, replies: Any, chosen: Any) -> Any:
    """Return P among the states numbered ``chosen [m]`` as ``[m+1,m+1]``; the last column is all other states."""
    size = len(chosen)
    index = np.full(len(moves.offsets) - 1, size)
    for i in range(size):
        index[chosen[i]] = i
    table = np.zeros((size + 1, size + 1))
    for i in range(size):
        for j in range(moves.offsets[chosen[i]], moves.offsets[chosen[i] + 1]):
            position = moves.columns[j]
            for k in range(replies.offsets[position], replies.offsets[position + 1]):
                table[i, index[replies.columns[k]]] += moves.values[j] * replies.values[k]
    return table


@numba.njit(cache=True)
def act(moves: Any, own: Any, policy: Any) -> Any:
    """Return the rows of a ``policy [s,a]`` that takes ``moves [s,a]``, and what it is paid of ``own [s,a]``, ``[s]``.

    The policy must be 0 for illegal actions.
    """
    states, actions = moves.shape
    offsets, paid = np.zeros(states + 1, dtype=np.int64), np.zeros(states)
    for state in range(states):
        offsets[state + 1] = offsets[state]
        for action in range(actions):
            offsets[state + 1] += policy[state, action] > 0
    columns, values = np.empty(offsets[states], dtype=np.int32), np.empty(offsets[states])
    for state in range(states):
        i = offsets[state]
        for action in range(actions):
            if policy[state, action] > 0:
                columns[i], values[i] = moves[state, action], policy[state, action]
                paid[state] += policy[state, action] * own[state, action]
                i += 1
    return Rows(offsets, columns, values), paid


@numba.njit(cache=True)
def choose(moves: Any, own: Any, chosen: Any) -> Any:
    """Return as ``act`` does the rows of the policy that takes ``chosen [s]``, or all legal actions alike where -1."""
    states, actions = moves.shape
    offsets, paid = np.zeros(states + 1, dtype=np.int64), np.zeros(states)
    for state in range(states):
        legal = 0
        for action in range(actions):
            legal += moves[state, action] >= 0
        offsets[state + 1] = offsets[state] + (legal if chosen[state] < 0 else 1)
    columns, values = np.empty(offsets[states], dtype=np.int32), np.empty(offsets[states])
    for state in range(states):
        i = offsets[state]
        for action in range(actions):
            if moves[state, action] >= 0 and (chosen[state] < 0 or chosen[state] == action):
                columns[i], values[i] = moves[state, action], 1.0 / (offsets[state + 1] - offsets[state])
                paid[state] += values[i] * own[state, action]
                i += 1
    return Rows(offsets, columns, values), paid


@numba.njit(cache=True)
def back_up(moves: Any, own: Any, after: Any, out: Any) -> None:
    """Set ``out [s,a]`` to ``own [s,a]`` and what comes ``after [p]``; -inf where illegal, 0 at terminal states."""
    states, actions = moves.shape
    for state in range(states):
        terminal = True
        for action in range(actions):
            legal = moves[state, action] >= 0
            terminal &= not legal
            out[state, action] = own[state, action] + after[moves[state, action]] if legal else -np.inf
        if terminal:
            out[state] = 0


@numba.njit(cache=True)
def improve(moves: Any, own: Any, after: Any, values: Any, margin: float, chosen: Any, best: Any) -> bool:
    """Set ``best [s]`` to the largest action values; ``chosen [s]`` to their actions where they exceed ``values [s]``.

    Only by more than ``margin``. Returns whether there is such a state.
    """
    states, actions = moves.shape
    better = False
    for state in range(states):
        top, at = -np.inf, -1
        for action in range(actions):
            if moves[state, action] >= 0:
                value = own[state, action] + after[moves[state, action]]
                if at < 0 or value > top:
                    top, at = value, action
        best[state] = top if at >= 0 else 0.0
        if at >= 0 and top > values[state] + margin:
            chosen[state] = at
            better = True
    return better
