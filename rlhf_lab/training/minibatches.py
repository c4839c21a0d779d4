"""Minibatches that never cut what a loss needs together: steps, rows or groups are the units that are shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.samples import Samples, taker

__all__ = ["minibatches"]


def minibatches(
    samples: Samples,
    steps: Mapping[str, Tensor],
    *,
    scopes: Set[str],
    count: int,
    epochs: int,
    streams: Streams,
    first: int,
) -> Iterator[tuple[Samples, dict[str, Tensor]]]:
    """Yield ``count`` minibatches per epoch, each run shuffled by its own stream; ``first`` numbers the first epoch.

    The unit is the widest of ``scopes``: a step (only where the samples are stepwise), a row, or the rows of a group.
    Steps that are not valid are left out: rows are padded to the longest of all runs, and what a run learns must not
    depend on that. A run with fewer steps than another has its minibatches filled up with steps that are not valid; one
    with fewer steps than minibatches has some without a valid step.

    Raises ``LabError`` where there are fewer rows or groups than minibatches.
    """
    by_step = scopes <= {"step"} and samples.stepwise
    runs, rows, length = samples.trajectories.rewards.shape
    if by_step:
        samples = samples.as_steps()
        steps = {name: x.reshape(runs, -1, 1) for name, x in steps.items()}
        rows *= length
    members = torch.arange(rows).expand(runs, rows)[..., None]  # [runs, units, rows of the unit]
    counted = samples.trajectories.valid[..., 0] if by_step else torch.ones(runs, rows, dtype=torch.bool)
    if "group" in scopes:
        members = _groups(samples.trajectories.group_ids)
        counted = counted[:, : members.shape[1]]
    units, sizes = members.shape[1], counted.sum(1)
    if not by_step and units < count:
        raise LabError(f"{count} minibatches cannot be cut from {units} units; collect more or use fewer minibatches")
    for epoch in range(epochs):
        keys = _keys(streams, first + epoch, units, length if by_step else 1)
        order = keys.masked_fill(~counted, 2).argsort(dim=1, stable=True)  # what does not count comes last
        for part in range(count):
            begin, end = sizes * part // count, sizes * (part + 1) // count
            position = begin[:, None] + torch.arange(max(1, int((end - begin).max())))
            inside = position < end[:, None]
            index = taker(order.gather(1, position.clamp(max=units - 1)), units)(members).flatten(1)
            take = taker(index, rows)
            chosen = {name: take(x) for name, x in steps.items()}
            if not bool(inside.all()):
                filled = inside.repeat_interleave(members.shape[-1], dim=1)[..., None]
                chosen |= {name: chosen[name] & filled for name in ("valid", "ends")}
            yield samples.select(index), chosen


def _keys(streams: Streams, step: int, units: int, length: int) -> Tensor:
    """Return ``[runs, units]`` uniforms to sort by; step t of row i has the same one however long rows are padded."""
    return streams.uniforms(step, length, units // length).transpose(1, 2).reshape(streams.runs, units)


def _groups(group_ids: Tensor | None) -> Tensor:
    """Return ``[runs, groups, size]``: the rows of each group."""
    if group_ids is None:
        raise LabError("a loss of scope 'group' needs group_ids, which neither environment nor trainer gives")
    runs, rows = group_ids.shape
    order = group_ids.argsort(dim=-1, stable=True)
    new = group_ids.gather(-1, order).diff(dim=-1) != 0  # [runs, rows - 1] where the next group begins
    size = int(new[0].nonzero()[0]) + 1 if bool(new[0].any()) else rows
    due = torch.arange(1, rows, device=new.device) % size == 0
    if rows % size or bool((new != due).any()):
        raise LabError("minibatches of whole groups need groups of one size; use minibatches: 1")
    return order.view(runs, -1, size)
