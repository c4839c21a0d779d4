"""Rollouts on environments that must be stepped, one policy evaluation per time step.

Requirements this file meets:
- the actor acts once per time step on all runs and rows; the critic is asked afterwards, for the whole window at once;
- a truncation and a live edge take the value of the true next observation, never of the one after a reset;
- every batch that the actor sees has a shape and an order that do not depend on other runs, so neither do its numbers.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

import numba
import numpy as np
import torch
from torch import Tensor

from rlhf_lab.random import philox, uniform
from rlhf_lab.training.protocols import Actor
from rlhf_lab.training.samples import Samples
from rlhf_lab.types import Trajectories

__all__ = ["Rows", "Step", "fill_uniforms", "record"]

_COLUMNS: Final = 32  # of an episode per critic evaluation


class Step(NamedTuple):
    """What one step of all rows gave, arrays ``[runs, rows]``."""

    rewards: Any
    terminated: Any
    truncated: Any
    valid: Any  # False where a row did not act: it was being reset, or its only episode is over
    finals: Any  # [runs, rows, *observation] the true next observations, before any reset


class Rows(Protocol):
    """Environments ``[runs, rows]`` that are stepped together."""

    def observe(self) -> tuple[Any, Any, Any]:
        """Return new arrays: observations to act on, uniforms to act with, and the legal actions or None."""
        ...

    def step(self, actions: Any) -> Step:
        """Act in every row that is not over."""
        ...

    def over(self) -> bool:
        """Return whether every row has had the one episode that it was to have."""
        ...


@numba.njit(cache=True)
def fill_uniforms(out: Any, keys: Any, counts: Any, collect: int) -> None:
    """Fill ``out [runs, rows, n]`` for step ``counts [runs, rows]`` of each row of a ``collect``."""
    runs, rows, size = out.shape
    for run in range(runs):
        for row in range(rows):
            for block in range((size + 3) // 4):
                counter = np.uint64(row), np.uint64(counts[run, row]), np.uint64(collect), np.uint64(2 * block)
                words = philox(counter[0], counter[1], counter[2], counter[3], keys[run, 0], keys[run, 1])
                for i in range(min(4, size - 4 * block)):
                    out[run, row, 4 * block + i] = uniform(words[i])


@torch.no_grad()
def record(actor: Actor, rows: Rows, steps: int | None) -> Samples:
    """Act for ``steps`` steps, or until every row's episode is over, and return what happened ``[runs, rows, t]``.

    ``inputs``: ``observations [runs, rows, t, *observation]``, ``actions`` and, where actions may be illegal, ``mask``.
    """
    seen: list[tuple[Tensor, ...]] = []  # observations, actions, log-probs and mask by time
    given: list[Step] = []
    while len(seen) < steps if steps is not None else not rows.over():
        observations, uniforms, mask = (None if x is None else torch.from_numpy(x) for x in rows.observe())
        assert observations is not None and uniforms is not None
        actions, log_probs = actor.act(observations, uniforms, mask)
        seen.append((observations, actions, log_probs) if mask is None else (observations, actions, log_probs, mask))
        given.append(rows.step(actions.numpy()))
    observations, actions, log_probs, *mask_ = (torch.stack(column, dim=1) for column in zip(*seen, strict=True))
    rewards, terminated, truncated, valid, finals = (
        torch.from_numpy(np.stack(column, axis=1)) for column in zip(*given, strict=True)
    )  # each [runs, t, rows, ...]
    outside = valid & ~terminated & truncated
    outside[:, -1] |= valid[:, -1] & ~terminated[:, -1]
    count = observations.shape[2]
    values = _values(actor, observations.flatten(1, 2), count * (_COLUMNS if steps is None else steps))
    next_values = None
    if values is not None:
        values = values.view(valid.shape)
        next_values = _next_values(actor, values, finals, terminated, outside)

    def by_row(x: Tensor | None) -> Any:
        return None if x is None else x.transpose(1, 2).contiguous()

    inputs = {"observations": by_row(observations), "actions": by_row(actions)}
    if mask_:
        inputs["mask"] = by_row(mask_[0])
    trajectories = Trajectories(
        by_row(rewards.to(log_probs.dtype)),
        by_row(terminated),
        by_row(truncated),
        by_row(valid),
        values=by_row(values),
        next_values=by_row(next_values),
        log_probs=by_row(log_probs),
    )
    return Samples(trajectories, inputs)


def _values(actor: Actor, observations: Tensor, size: int) -> Tensor | None:
    """Return V of ``observations [runs, n, ...]``, asked in batches of exactly ``size``."""
    runs, total = observations.shape[:2]
    if total % size:
        padding = observations.new_zeros(runs, size - total % size, *observations.shape[2:])
        observations = torch.cat([observations, padding], dim=1)
    parts = [part for batch in torch.split(observations, size, dim=1) if (part := actor.values(batch)) is not None]
    return torch.cat(parts, dim=1)[:, :total] if parts else None


def _next_values(actor: Actor, values: Tensor, finals: Tensor, terminated: Tensor, outside: Tensor) -> Tensor:
    """Return ``[runs, t, rows]``: the next column's value, and the critic's answer to ``finals`` where ``outside``."""
    next_values = torch.cat([values[:, 1:], values[:, -1:]], dim=1).masked_fill(terminated, 0)
    runs, _, rows = values.shape
    flat, finals = outside.flatten(1), finals.flatten(1, 2)
    places = flat.byte().argsort(dim=1, descending=True, stable=True)  # of a run's outside steps, in order of time
    largest = int(flat.sum(1).max())
    for first in range(0, largest, rows):
        where = places[:, first : first + rows]
        answer = actor.values(finals[torch.arange(runs)[:, None], where])
        assert answer is not None
        kept = torch.where(flat.gather(1, where), answer, next_values.flatten(1).gather(1, where))
        next_values = next_values.flatten(1).scatter(1, where, kept).view_as(values)
    return next_values
