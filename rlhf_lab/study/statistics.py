"""Statistics of seeds: interquartile mean, bootstrap intervals, paired comparisons and how many seeds they need.

Requirements this file meets:
- the seed is the unit of replication; tasks (environments) are strata, and seeds are resampled inside each of them;
- equal inputs give equal bytes: every resampling has its own seeded generator, never a global one;
- one seed has no interval: its ends are NaN, never a width of zero;
- a failed seed (NaN) is never dropped in silence. A summary is over the seeds that finished and counts the others
  beside it; a comparison counts each failure as the worst score seen (``failures_as_worst``): failing cannot help.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, isnan, nan, sqrt
from statistics import NormalDist
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "RESAMPLES",
    "Interval",
    "Statistic",
    "Summary",
    "band",
    "bootstrap",
    "failures_as_worst",
    "few_seeds",
    "holm",
    "iqm",
    "p_value",
    "paired_difference",
    "probability_of_improvement",
    "resampling_indices",
    "seeds_needed",
    "stratified_interval",
    "summarise",
    "wilson",
]

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.integer[Any]]
Statistic = Literal["iqm", "mean"]
Direction = Literal["higher", "lower"]

RESAMPLES: Final = 5000
_CHUNK: Final = 1 << 18  # resampled scores held at once: 2 MB, about a core's cache
# seeds, and the percentages that intervals of these seeds cover: benchmarks/seed_statistics.py --coverage
_COVERAGE: Final = ((3, 63, 75), (5, 79, 89), (9, 90, 94))


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


@dataclass(frozen=True)
class Summary:
    """One arm's scores: everything is over the ``n`` seeds that finished; ``failed`` counts the others."""

    n: int
    failed: int
    iqm: Interval
    mean: Interval
    median: float
    worst: float
    low: float  # 10 % of the seeds lie below
    high: float  # 10 % of the seeds lie above


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
    table = _table(scores)
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
    table = _table(scores)
    value = _point(table, statistic)
    if len(table) < 2:
        return Interval(value, nan, nan, level)
    return _percentiles(value, bootstrap(table, statistic, resamples=resamples, seed=seed, indices=indices), level)


def summarise(
    scores: npt.ArrayLike, *, better: Direction = "higher", resamples: int = RESAMPLES, seed: int = 0
) -> Summary:
    """Summarise ``scores [seeds]`` of one arm; NaN marks a failed seed."""
    values = np.asarray(scores, dtype=np.float64)
    finite = values[np.isfinite(values)]
    failed = len(values) - len(finite)
    if not len(finite):
        none = Interval(nan, nan, nan)
        return Summary(0, failed, none, none, nan, nan, nan, nan)
    low, median, high = np.quantile(finite, (0.1, 0.5, 0.9))
    return Summary(
        len(finite),
        failed,
        stratified_interval(finite, "iqm", resamples=resamples, seed=seed),
        stratified_interval(finite, "mean", resamples=resamples, seed=seed),
        float(median),
        float(finite.min() if better == "higher" else finite.max()),
        float(low),
        float(high),
    )


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
            drawn = _counts(indices, n) @ rows.T / n
        else:
            drawn = np.stack([iqm(row[indices], axis=-1) for row in rows], axis=1)
        low[points], high[points] = np.quantile(drawn, (0.025, 0.975), axis=0)
    return value, low, high


def failures_as_worst(arms: Sequence[npt.ArrayLike], better: Direction = "higher") -> list[Array]:
    """Return the arms' scores with every failed seed (NaN) counted as the worst finite score of all these arms."""
    tables = [np.asarray(scores, dtype=np.float64) for scores in arms]
    finite = np.concatenate([table[np.isfinite(table)] for table in tables])
    worst = (finite.min() if better == "higher" else finite.max()) if len(finite) else nan
    return [np.where(np.isfinite(table), table, worst) for table in tables]


def paired_difference(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of ``first − second`` over shared seeds, ``[seeds]`` each and finite, with its bootstrap interval.

    Noise that both arms share (same seed, same world) cancels, so fewer seeds separate the arms than without pairs.
    """
    return stratified_interval(_paired(first, second), "mean", level=level, resamples=resamples, seed=seed)


def p_value(differences: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided bootstrap p-value of "the mean difference is 0"; the smallest possible one is 2 / (resamples + 1)."""
    table = _table(differences)
    if len(table) < 2 or not np.isfinite(table).all():
        return 1.0
    means = bootstrap(table, "mean", resamples=resamples, seed=seed)
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (len(means) + 1))


def probability_of_improvement(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    better: Direction = "higher",
    paired: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """P(X > Y) + ½ P(X = Y) for a run X of the first and Y of the second arm, averaged over tasks.

    ``[runs]`` or ``[runs, tasks]`` each. Not paired: every run of one arm meets every run of the other (Mann-Whitney
    U / (n m)). Paired: run i meets run i, the same seed. A failed run (NaN) loses against all but a failed one.
    Source: Agarwal et al. 2021, section 4.3.
    """
    sign = 1.0 if better == "higher" else -1.0
    x, y = (np.where(np.isnan(t), -np.inf, sign * t) for t in (_table(first), _table(second)))
    tasks = x.shape[1]
    if paired:
        if x.shape != y.shape:
            raise ValueError(f"paired runs need equal shapes, found {list(x.shape)} and {list(y.shape)}")
        return stratified_interval(_wins(x, y), "mean", level=level, resamples=resamples, seed=seed)
    value, draws = 0.0, np.zeros(resamples)
    for task in range(tasks):
        wins = _wins(x[:, None, task], y[None, :, task]) / (len(x) * len(y) * tasks)
        value += float(wins.sum())
        of_x = _counts(resampling_indices(len(x), 1, resamples, seed + 2 * task)[..., 0], len(x))
        of_y = _counts(resampling_indices(len(y), 1, resamples, seed + 2 * task + 1)[..., 0], len(y))
        draws += np.einsum("rx,rx->r", of_x, of_y @ wins.T)
    if min(len(x), len(y)) < 2:
        return Interval(value, nan, nan, level)
    return _percentiles(value, draws, level)


def seeds_needed(differences: npt.ArrayLike, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """About how many shared seeds a two-sided test at ``alpha`` needs to see this mean difference with ``power``.

    N = (z(1−α/2) + z(power))² (s / d)² + z(1−α/2)² / 2, d and s mean and standard deviation of ``differences [seeds]``.
    The last term corrects the normal approximation for a t-test. None where d is 0, or with fewer than two seeds.
    Source: Guenther 1981; Colas et al. 2018, section 4.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or not abs(mean := float(d.mean())) > 0:
        return None
    alpha_z, power_z = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    ratio = float(d.std(ddof=1)) / abs(mean)
    return max(2, ceil((alpha_z + power_z) ** 2 * ratio**2 + alpha_z**2 / 2))


def holm(p_values: Sequence[float], alpha: float = 0.05) -> tuple[list[bool], list[float]]:
    """Holm's step-down test: which of k hypotheses are rejected, and the level at which each was judged.

    The i-th smallest p-value (i = 0, 1, ...) is judged at α / (k − i); from the first that is not rejected on, none
    is, and they share its level. That any rejection is wrong has probability at most α. Source: Holm 1979.
    """
    k = len(p_values)
    rejected, levels = [False] * k, [alpha] * k
    going, judged_at = True, alpha
    for i, j in enumerate(sorted(range(k), key=lambda j: p_values[j])):
        if going:
            judged_at = alpha / (k - i)
            going = p_values[j] <= judged_at
        rejected[j], levels[j] = going, judged_at
    return rejected, levels


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share. Source: Wilson 1927."""
    if not n:
        return Interval(nan, nan, nan, level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), level)


def few_seeds(n: int) -> str | None:
    """Return a warning where ``n`` seeds are too few for the intervals to keep their promise, else None."""
    if n == 1:
        return "one seed gives no interval: nothing here can be separated from luck"
    for seeds, low, high in _COVERAGE:
        if n <= seeds:
            known = f"{low} to {high}" if n == seeds else f"less than {high}"
            return f"{n} seeds: a 95 % bootstrap interval covers {known} % of the time; use 20 or more"
    return None


def _table(scores: npt.ArrayLike) -> Array:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise ValueError(f"scores must be [runs] or [runs, tasks] and not empty, found shape {list(table.shape)}")
    return table[:, None] if table.ndim == 1 else table


def _paired(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired runs need equal shapes, found {list(a.shape)} and {list(b.shape)}")
    return a - b


def _point(table: Array, statistic: Statistic) -> float:
    return float(iqm(table) if statistic == "iqm" else table.mean())


def _percentiles(value: float, draws: Array, level: float) -> Interval:
    if isnan(value):
        return Interval(nan, nan, nan, level)
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return Interval(value, float(low), float(high), level)


def _chunks(resamples: int, size: int) -> Iterator[slice]:
    step = max(1, _CHUNK // max(size, 1))
    return (slice(start, start + step) for start in range(0, resamples, step))


def _counts(indices: Indices, n: int) -> Array:
    """Turn ``[resamples, n]`` indices into how often each run was drawn, ``[resamples, n]``."""
    flat = indices + np.arange(len(indices))[:, None] * n
    counts: npt.NDArray[np.intp] = np.bincount(flat.ravel(), minlength=len(indices) * n)
    return counts.reshape(-1, n).astype(np.float64)


def _wins(x: Array, y: Array) -> Array:
    return np.where(x > y, 1.0, np.where(x == y, 0.5, 0.0))
