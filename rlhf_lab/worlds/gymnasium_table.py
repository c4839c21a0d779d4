"""Gymnasium's transition tables (FrozenLake, Taxi, CliffWalking) as tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.worlds.protocol import WorldError

__all__ = ["read_table"]


def read_table(
    table: Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]], start: Any = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``transition``, ``reward``, ``start`` and ``terminal`` of ``{s: {a: [(p, s', r, done), ...]}}``.

    ``done`` belongs to an arrival, not to a state. A state where the episode may also go on, because it is a start or
    is entered from another state without ``done``, keeps its row; a terminal copy, numbered after the table's states,
    takes the arrivals with ``done``.
    """
    states, actions = len(table), len(table[0]) if 0 in table else 0
    if sorted(table) != list(range(states)) or any(sorted(row) != list(range(actions)) for row in table.values()):
        raise WorldError("from_gymnasium: expected states 0, 1, ... with the same actions 0, 1, ... in each")
    entries = [
        (int(s), int(a), float(p), int(to), float(r), bool(done))
        for s, row in table.items()
        for a, outcomes in row.items()
        for p, to, r, done in outcomes
        if p > 0
    ]
    given = None if start is None else torch.as_tensor(start, dtype=torch.float64)
    if given is not None and given.shape != (states,):
        raise WorldError(f"from_gymnasium: expected start of shape [{states}], found {list(given.shape)}")
    ended = {to for *_, to, _, done in entries if done}
    going_on = {to for s, _, _, to, _, done in entries if not done and s != to}
    going_on |= set() if given is None else set(given.nonzero()[:, 0].tolist())
    ends = {to: to for to in ended - going_on} | {to: states + i for i, to in enumerate(sorted(ended & going_on))}

    size = states + len(ended & going_on)
    at = torch.tensor([(s, a, ends[to] if done else to) for s, a, _, to, _, done in entries]).T.unbind()
    chance, pay = torch.tensor([(p, p * r) for _, _, p, _, r, _ in entries], dtype=torch.float64).T
    transition = torch.zeros(size, actions, size, dtype=torch.float64).index_put_(at, chance, accumulate=True)
    reward = torch.zeros_like(transition).index_put_(at, pay, accumulate=True) / transition.where(transition > 0, 1)
    terminal = torch.zeros(size, dtype=torch.bool)
    terminal[list(ends.values())] = True
    begin = torch.zeros(size, dtype=torch.float64)
    if given is None:
        begin[:states] = (~terminal[:states]).to(torch.float64)
        begin /= begin.sum()
    else:
        begin[:states] = given
    return transition, reward, begin, terminal
