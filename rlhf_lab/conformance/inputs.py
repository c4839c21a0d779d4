"""What the roles without a batch type of their own are called with, and how any batch is cut, joined and padded.

Every case is one batch whose fields know their axes (see ``rlhf_lab.batch``): rows come first, steps last. So a law
about rows or padding is written once for all roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from rlhf_lab.batch import Batch, optional, required, unchecked
from rlhf_lab.types import Trajectories

__all__ = [
    "Estimated",
    "LogProbs",
    "Masks",
    "Observed",
    "Segment",
    "insert",
    "insert_steps",
    "level",
    "map_fields",
    "segments",
    "take_rows",
    "take_steps",
    "tensors",
]

AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass(frozen=True, eq=False)
class Estimated(Trajectories):
    """What a normaliser is called with: trajectories and the raw advantages of their steps."""

    advantages: Tensor | None = optional("float", "same")
    returns: Tensor | None = optional("float", "same")


@dataclass(frozen=True, eq=False)
class LogProbs(Batch):
    """What a KL estimator is called with: log-probabilities of actions, or of whole distributions on a last axis."""

    axes: ClassVar[str] = "t"

    log_probs: Tensor = required("float", "same")
    ref_log_probs: Tensor = required("float", "same")
    old_log_probs: Tensor | None = optional("float", "same")


@dataclass(frozen=True, eq=False)
class Masks(Batch):
    """What an aggregation is called with; ``losses`` are per-step losses that it might be given."""

    axes: ClassVar[str] = "t"

    losses: Tensor = required("float", "same")
    valid: Tensor = required("bool", "same")
    ends: Tensor = required("bool", "same")


@dataclass(frozen=True, eq=False)
class Observed(Batch):
    """What a controller is called with, one number per run."""

    axes: ClassVar[str] = "run"

    coefficient: Tensor = required("float", "same")
    observed: Tensor = required("float", "same")


@dataclass(frozen=True)
class Segment:
    """One episode of a batch: its row, the positions of its valid steps, and how it ends."""

    row: int
    steps: tuple[int, ...]
    end: str  # terminated, truncated or open


def tensors(batch: Batch) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, axes (``same``, ``row``) and tensor of each field that is given."""
    kind: Any = type(batch)
    for name, axes in _axes(kind):
        value = getattr(batch, name)
        if isinstance(value, Tensor):
            yield name, axes, value


@cache
def _axes(kind: Any) -> list[tuple[str, str]]:
    return [(item.name, item.metadata["axes"]) for item in fields(kind) if "axes" in item.metadata]


def map_fields(batch: AnyBatch, change: Callable[[str, str, Tensor], Tensor]) -> AnyBatch:
    """Return the batch with ``change(name, axes, tensor)`` for every given field, unchecked."""
    return unchecked(batch, {name: change(name, axes, value) for name, axes, value in tensors(batch)})


def take_rows(batch: AnyBatch, rows: list[int]) -> AnyBatch:
    """Return the batch with these rows in this order."""
    return map_fields(batch, lambda _, __, x: x[rows])


def take_steps(batch: AnyBatch, steps: list[int]) -> AnyBatch:
    """Return the batch with these steps (of rankings: candidates) in this order; fields without that axis stay."""

    def take(_: str, axes: str, x: Tensor) -> Tensor:
        return x[..., steps] if axes == "same" else x[..., steps, :] if axes == "token" else x

    return map_fields(batch, take)


def insert_steps(batch: AnyBatch, position: int, junk: float, count: int = 1) -> AnyBatch:
    """Return the batch with ``count`` invalid steps (of rankings: candidates) that hold ``junk`` in front of one."""

    def widen(_: str, axes: str, x: Tensor) -> Tensor:
        if axes == "row":
            return x
        return insert(x, position, junk, count, dim=-1 if axes == "same" else -2)

    return map_fields(batch, widen)


def insert(x: Tensor, position: int, junk: float, count: int, dim: int) -> Tensor:
    """Return a tensor with ``count`` places that hold ``junk``, or False, in front of ``position``."""
    before, after = x.narrow(dim, 0, position), x.narrow(dim, position, x.shape[dim] - position)
    shape = list(x.shape)
    shape[dim] = count
    return torch.cat([before, x.new_full(shape, False if x.dtype == torch.bool else junk), after], dim)


def with_fields(batch: AnyBatch, changes: Mapping[str, Any]) -> AnyBatch:
    """Return the batch with some fields replaced, checked."""
    return replace(batch, **changes)  # type: ignore[type-var]


def level(batch: AnyBatch, field: str) -> AnyBatch:
    """Return the batch with one number per episode in a field, that of its first valid step."""
    changed = getattr(batch, field).clone()
    for episode in segments(batch):
        changed[episode.row, list(episode.steps)] = float(changed[episode.row, episode.steps[0]])
    return map_fields(batch, lambda name, _, x: changed if name == field else x)


def segments(batch: Any) -> list[Segment]:
    """Return the episodes of a batch ``[rows, t]`` in order of rows and time.

    Reads ``valid``, and ``terminated`` and ``truncated`` or else ``ends``. An episode that reaches a row's last valid
    step without a flag is ``open``.
    """
    valid = batch.valid.tolist()
    if hasattr(batch, "terminated"):
        terminated, truncated = batch.terminated.tolist(), batch.truncated.tolist()
    else:
        terminated, truncated = [[False] * len(row) for row in valid], batch.ends.tolist()
    found = []
    for row, counts in enumerate(valid):
        steps: list[int] = []
        for t, count in enumerate(counts):
            if count:
                steps.append(t)
            if count and (terminated[row][t] or truncated[row][t]):
                found.append(Segment(row, tuple(steps), "terminated" if terminated[row][t] else "truncated"))
                steps = []
        if steps:
            found.append(Segment(row, tuple(steps), "open"))
    return found
