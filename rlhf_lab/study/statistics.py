"""Statistics of seeds: summaries of an arm, comparisons of two, and how many seeds they need.

A failed seed (NaN) is never dropped in silence. A summary is over the seeds that finished and counts the others beside
it; a comparison counts each failure as the worst score seen (``failures_as_worst``): failing cannot help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, nan, sqrt
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from rlhf_lab.study.bootstrap import (
    RESAMPLES,
    Array,
    Interval,
    counts,
    percentiles,
    resampling_indices,
    stratified_interval,
    table_of,
)

__all__ = [
    "Direction",
    "Summary",
    "failures_as_worst",
    "few_seeds",
    "holm",
    "paired_difference",
    "probability_of_improvement",
    "seeds_needed",
    "summarise",
    "wilson",
]

Direction = Literal["higher", "lower"]

# seeds, and the percentages that intervals of these seeds cover: benchmarks/seed_statistics.py --coverage
_COVERAGE: Final = ((3, 63, 75), (5, 79, 89), (9, 90, 94))


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
    x, y = (np.where(np.isnan(t), -np.inf, sign * t) for t in (table_of(first), table_of(second)))
    tasks = x.shape[1]
    if paired:
        if x.shape != y.shape:
            raise ValueError(f"paired runs need equal shapes, found {list(x.shape)} and {list(y.shape)}")
        return stratified_interval(_wins(x, y), "mean", level=level, resamples=resamples, seed=seed)
    value, draws = 0.0, np.zeros(resamples)
    for task in range(tasks):
        wins = _wins(x[:, None, task], y[None, :, task]) / (len(x) * len(y) * tasks)
        value += float(wins.sum())
        of_x = counts(resampling_indices(len(x), 1, resamples, seed + 2 * task)[..., 0], len(x))
        of_y = counts(resampling_indices(len(y), 1, resamples, seed + 2 * task + 1)[..., 0], len(y))
        draws += np.einsum("rx,rx->r", of_x, of_y @ wins.T)
    if min(len(x), len(y)) < 2:
        return Interval(value, nan, nan, level)
    return percentiles(value, draws, level)


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


def _paired(first: npt.ArrayLike, second: npt.ArrayLike) -> Array:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired runs need equal shapes, found {list(a.shape)} and {list(b.shape)}")
    return a - b


def _wins(x: Array, y: Array) -> Array:
    return np.where(x > y, 1.0, np.where(x == y, 0.5, 0.0))
