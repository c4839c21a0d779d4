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

    Raises ``LabError`` where there are fewer units than minibatches.
    """
    if scopes <= {"step"} and samples.stepwise:
        samples = samples.as_steps()
        steps = {name: x.reshape(x.shape[0], -1, 1) for name, x in steps.items()}
    runs, rows = samples.trajectories.rewards.shape[:2]
    members = torch.arange(rows).expand(runs, rows)[..., None]  # [runs, units, rows of the unit]
    if "group" in scopes:
        members = _groups(samples.trajectories.group_ids)
    units = members.shape[1]
    if units < count:
        raise LabError(f"{count} minibatches cannot be cut from {units} units; collect more or use fewer minibatches")
    for epoch in range(epochs):
        order = streams.permutations(first + epoch, units)
        for part in order.tensor_split(count, dim=1):
            index = taker(part, units)(members).flatten(1)
            take = taker(index, rows)
            yield samples.select(index), {name: take(x) for name, x in steps.items()}


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
