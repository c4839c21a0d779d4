"""The interquartile mean and the stratified bootstrap: intervals of scores over seeds.

Requirements this file meets:
- the seed is the unit of replication; tasks (environments) are strata, and seeds are resampled inside each of them;
- equal inputs give equal bytes: every resampling has its own seeded generator, never a global one;
- one seed has no interval: its ends are NaN, never a width of zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "RESAMPLES",
    "Array",
    "Interval",
    "Statistic",
    "band",
    "bootstrap",
    "counts",
    "iqm",
    "p_value",
    "percentiles",
    "resampling_indices",
    "stratified_interval",
    "table_of",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer[Any]]
Statistic = Literal["iqm", "mean"]

RESAMPLES: Final = 5000
_CHUNK: Final = 1 << 18  # resampled scores held at once: 2 MB, about a core's cache


@dataclass(frozen=True)
class Interval:
    """A value and its confidence interval. Both ends are NaN where the data gives none (one seed)."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def excludes(self, point: float) -> bool:
        """Tell whether the interval exists and ``point`` lies outside of it."""
        return self.low > point or self.high < point

    @property
    def half_width(self) -> float:
        """Half the interval's width; NaN where there is none."""
        return (self.high - self.low) / 2


def iqm(scores: npt.ArrayLike, axis: int | None = None) -> Array:
    """Interquartile mean: the mean of what remains after ⌊n/4⌋ scores are cut from either end.

    With ``axis=None`` all scores ``[runs, tasks]`` are pooled, as rliable does: ``scipy.stats.trim_mean(x, 0.25)``.
    Source: Agarwal et al. 2021, section 4.3.
    """
    pooled = np.asarray(scores, dtype=np.float64)
    rows = pooled.ravel() if axis is None else np.moveaxis(pooled, axis, -1)
    n = rows.shape[-1]
    cut = n // 4
    middle = np.sort(rows, axis=-1)[..., cut : n - cut]  # NumPy's vectorised sort beats its partition
    return np.asarray(middle.mean(axis=-1), dtype=np.float64)


def resampling_indices(runs: int, tasks: int = 1, resamples: int = RESAMPLES, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ``[resamples, runs, tasks]``: which run stands in for which, drawn with replacement inside each task."""
    return np.random.default_rng(seed).integers(0, runs, size=(resamples, runs, tasks))


def bootstrap(
    scores: npt.ArrayLike,
    statistic: Statistic = "iqm",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    indices: Indices | None = None,
) -> Array:
    """Return ``[resamples]``: the statistic of ``scores [runs]`` or ``[runs, tasks]``, resampled inside each task."""
    table = table_of(scores)
    runs, tasks = table.shape
    if indices is None:
        indices = resampling_indices(runs, tasks, resamples, seed)
    by_task, offset = table.T.ravel(), np.arange(tasks) * runs  # one flat gather is faster than two index arrays
    values = np.empty(len(indices))
    for rows in _chunks(len(indices), table.size):
        drawn = by_task[indices[rows] + offset].reshape(-1, table.size)
        values[rows] = iqm(drawn, axis=-1) if statistic == "iqm" else drawn.mean(axis=-1)
    return values


def stratified_interval(
    scores: npt.ArrayLike,
    statistic: Statistic = "iqm",
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    indices: Indices | None = None,
) -> Interval:
    """Percentile bootstrap interval of the IQM or mean of ``scores [runs]`` or ``[runs, tasks]``, all of them finite.

    Strata are the tasks: runs are resampled inside each. ``indices [resamples, runs, tasks]`` fixes the resampling.
    Source: Agarwal et al. 2021, section 4.1.
    """
    table = table_of(scores)
    value = _point(table, statistic)
    if len(table) < 2:
        return Interval(value, nan, nan, level)
    return percentiles(value, bootstrap(table, statistic, resamples=resamples, seed=seed, indices=indices), level)


def p_value(differences: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided bootstrap p-value of "the mean difference is 0"; the smallest possible one is 2 / (resamples + 1)."""
    table = table_of(differences)
    if len(table) < 2 or not np.isfinite(table).all():
        return 1.0
    means = bootstrap(table, "mean", resamples=resamples, seed=seed)
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (len(means) + 1))


def band(
    curve: npt.ArrayLike, statistic: Statistic = "mean", *, resamples: int = 1000, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Return value, low and high, ``[points]`` each, of ``curve [points, seeds]``: a 95 % bootstrap band at each point.

    Seeds that are NaN at a point do not count at that point. The same seeds are drawn at every point.
    """
    table = np.asarray(curve, dtype=np.float64)
    value, low, high = np.full((3, len(table)), nan)
    finite = np.isfinite(table)
    alike: dict[bytes, list[int]] = {}  # points by which seeds count there; usually one entry
    for point, counting in enumerate(finite):
        alike.setdefault(counting.tobytes(), []).append(point)
    for points in alike.values():
        seeds = finite[points[0]]
        rows, n = table[np.ix_(points, seeds)], int(seeds.sum())
        if not n:
            continue
        value[points] = iqm(rows, axis=1) if statistic == "iqm" else rows.mean(axis=1)
        if n < 2:
            continue
        indices = resampling_indices(n, 1, resamples, seed)[..., 0]
        if statistic == "mean":
            drawn = counts(indices, n) @ rows.T / n
        else:
            drawn = np.stack([iqm(row[indices], axis=-1) for row in rows], axis=1)
        low[points], high[points] = np.quantile(drawn, (0.025, 0.975), axis=0)
    return value, low, high


def table_of(scores: npt.ArrayLike) -> Array:
    """Return ``[runs, tasks]``; raises ``ValueError`` for another number of axes and where nothing is in them."""
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise ValueError(f"scores must be [runs] or [runs, tasks] and not empty, found shape {list(table.shape)}")
    return table[:, None] if table.ndim == 1 else table


def _point(table: Array, statistic: Statistic) -> float:
    return float(iqm(table) if statistic == "iqm" else table.mean())


def percentiles(value: float, draws: Array, level: float) -> Interval:
    """Return the middle ``level`` of the draws as the interval of ``value``."""
    if isnan(value):
        return Interval(nan, nan, nan, level)
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high), level)


def _chunks(resamples: int, size: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(size, 1))
    return (slice(start, start + step) for start in range(0, resamples, step))


def counts(indices: Indices, n: int) -> Array:
    """Turn ``[resamples, n]`` indices into how often each run was drawn, ``[resamples, n]``."""
    flat = indices + np.arange(len(indices))[:, None] * n
    counts: npt.NDArray[np.intp] = np.bincount(flat.ravel(), minlength=len(indices) * n)
    return counts.reshape(-1, n).astype(np.float64)
