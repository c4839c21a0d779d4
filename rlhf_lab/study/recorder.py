"""What a run has shown so far: its recorded points, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from rlhf_lab.study.results import Array

__all__ = ["Recorder"]


@dataclass
class Recorder:
    """The points recorded so far; between points the trainer's metrics are averaged over iterations.

    A seed whose budget is spent keeps its last point: it waits for the others, whose iterations say nothing of it.
    """

    points: list[dict[str, Array]] = field(default_factory=list)  # metric -> [seeds]
    iterations: list[int] = field(default_factory=list)
    alive: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    references: dict[str, dict[str, float]] = field(default_factory=dict)
    regret: Array | float = 0.0  # of each seed, summed over all iterations so far
    _names: tuple[str, ...] = ()
    _sums: Array | None = None  # [metrics, seeds]
    _counts: Array | None = None
    _waited: np.ndarray[Any, Any] | None = None  # [seeds] whether the seed's budget was spent at the last point

    def add(self, metrics: Mapping[str, Tensor], resting: np.ndarray[Any, Any]) -> None:
        """Add one iteration's metrics to the sums since the last point; what is not finite does not count."""
        values = np.stack([value.detach().numpy() for value in metrics.values()]).astype(np.float64)
        known = np.isfinite(values) & ~resting
        values = np.where(known, values, 0.0)
        self._names = tuple(metrics)
        if self._sums is None or self._counts is None:
            self._sums, self._counts, self._waited = values, known.astype(np.float64), resting
        else:
            self._sums, self._counts = self._sums + values, self._counts + known

    def close(self, iteration: int, latest: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, Array]:
        """Record a point: means of the trainer's metrics, and the exact quantities as they are now."""
        assert self._sums is not None and self._counts is not None and self._waited is not None
        means = np.full_like(self._sums, np.nan)
        np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
        point = dict(zip(self._names, means, strict=True))
        for name in ("steps", "episodes"):
            point[name] = latest[name].double().numpy()
        point |= {k: np.where(self.alive, v.double().numpy(), np.nan) for k, v in exact.items()}
        if self._waited.any():
            point = {name: np.where(self._waited, self.points[-1][name], value) for name, value in point.items()}
        self.points.append(point)
        self.iterations.append(iteration)
        self._sums = self._counts = None
        return point

    def curves(self) -> dict[str, Array]:
        """Return ``[points, seeds]`` per metric, without the counts, which are axes."""
        names = [name for name in self.points[0] if name not in ("steps", "episodes")] if self.points else []
        return {name: np.stack([point[name] for point in self.points]) for name in names}

    def axes(self) -> dict[str, Array]:
        """Return ``[points]``: iterations, and steps and episodes as their mean over seeds."""
        counts = {name: np.stack([p[name] for p in self.points]).mean(1) for name in ("steps", "episodes")}
        return {"iteration": np.array(self.iterations, dtype=float), **counts}

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return everything as arrays, for a checkpoint taken right after a point."""
        names = self.points[0] if self.points else {}
        return {f"point/{name}": np.stack([p[name] for p in self.points]) for name in names}

    def restore(self, arrays: Mapping[str, np.ndarray[Any, Any]], iterations: list[int]) -> None:
        """Take up what ``arrays`` returned."""
        columns = {name[6:]: array for name, array in arrays.items() if name.startswith("point/")}
        self.points = [{name: array[i] for name, array in columns.items()} for i in range(len(iterations))]
        self.iterations = iterations
        self.regret = self.points[-1].get("regret", 0.0) if self.points else 0.0
