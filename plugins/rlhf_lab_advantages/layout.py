"""How a batch is read: which rows belong to which run, which steps to which episode, which fields must be there.

Runs. Every estimator and normaliser here is ``stacked``. With two or more leading axes, ``[runs, ..., t]``, axis 0
is the run and the other leading axes are its rows; with fewer, ``[rows, t]`` or ``[t]``, the whole batch is one
run. Runs never mix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_lab.types import BatchError, Trajectories

__all__ = ["by_run", "episode_ends", "episode_labels", "given", "last_valid", "relabel", "run_labels", "table"]


def given(batch: Trajectories, name: str) -> Tensor:
    """Return an optional field of the batch.

    Raises ``BatchError`` where it is None.
    """
    value: Tensor | None = getattr(batch, name)
    if value is None:
        raise BatchError(
            f"Trajectories.{name} is None, but this estimator reads it. Fill it, or choose another estimator"
        )
    return value


def table(x: Tensor) -> Tensor:
    """Return ``x [*b,t]`` as ``[rows, t]``, a view where possible."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def by_run(x: Tensor) -> Tensor:
    """Return ``x [*b,t]`` as ``[runs, steps]``, all steps of a run in one row, a view where possible."""
    return x.flatten(1) if x.ndim > 2 else x.reshape(1, x.numel())


def run_labels(x: Tensor) -> Tensor:
    """Return the run of each row of ``table(x)``, int64 ``[rows]``."""
    rows = torch.arange(math.prod(x.shape[:-1]), device=x.device)
    return rows // max(math.prod(x.shape[1:-1]), 1) if x.ndim > 2 else torch.zeros_like(rows)


def last_valid(valid: Tensor) -> Tensor:
    """Return True at the last valid step of each row, bool ``[*b,t]``."""
    return valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)


def episode_ends(batch: Trajectories) -> Tensor:
    """Return True at the last valid step of each episode, bool ``[*b,t]``; a live edge ends its episode here."""
    return batch.terminated | batch.truncated | last_valid(batch.valid)


def episode_labels(batch: Trajectories) -> tuple[Tensor, int]:
    """Return the episode of each step, int64 ``[runs, steps]`` counted from 0 in each run, and their number.

    A step's label is the number of ends before it, so that padding at a row's end takes the label of the next row's
    first episode: clean what stands there.
    """
    ends = by_run(episode_ends(batch)).long()
    labels = ends.cumsum(-1) - ends
    return labels, int(labels.max()) + 1 if labels.numel() else 1


def relabel(*labels: Tensor) -> tuple[Tensor, int]:
    """Return one dense label for each different tuple of labels, int64 ``[n]``, and how many there are."""
    joint = torch.zeros_like(labels[0], dtype=torch.int64)
    kinds = joint
    for each in labels:
        found, dense = torch.unique(each, return_inverse=True)
        kinds, joint = torch.unique(joint * len(found) + dense, return_inverse=True)
    return joint, len(kinds)
