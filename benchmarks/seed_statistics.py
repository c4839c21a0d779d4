"""Time the statistics, and measure how often a bootstrap interval covers the truth.

python benchmarks/seed_statistics.py             IQM with interval, 2 arms x 10 environments x 26 seeds x 5000 resamples
python benchmarks/seed_statistics.py --coverage  coverage of the 95 % interval by number of seeds

If rliable is importable (it needs pandas < 3), its time on the same scores stands beside ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from rlhf_lab.study.bootstrap import RESAMPLES, iqm, resampling_indices, stratified_interval
from rlhf_lab.study.statistics import probability_of_improvement

SEEDS, TASKS, ARMS = 26, 10, 2


def timed(action: Callable[[], object], rounds: int = 5) -> float:
    """Return the median seconds of a few rounds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def speed() -> None:
    arms = np.random.default_rng(0).normal(size=(ARMS, SEEDS, TASKS))
    ours = timed(lambda: [stratified_interval(scores) for scores in arms])
    print(
        f"IQM with interval, {ARMS} arms x {TASKS} environments x {SEEDS} seeds x {RESAMPLES} resamples: {ours:.3f} s"
    )
    improvement = timed(lambda: probability_of_improvement(*arms))
    print(f"probability of improvement with interval: {improvement:.3f} s")
    try:
        from rliable import library, metrics
    except (ImportError, TypeError) as error:
        print(f"rliable cannot be imported here ({error})")
        return
    named = {str(i): scores for i, scores in enumerate(arms)}
    theirs = timed(
        lambda: library.get_interval_estimates(named, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=RESAMPLES), 3
    )
    print(f"rliable: {theirs:.3f} s, {theirs / ours:.1f} times ours")


def coverage(trials: int = 1500, resamples: int = 500) -> None:
    rng = np.random.default_rng(0)
    print("seeds   normal: IQM  mean   30/70 bimodal: IQM  mean      (percent of 95 % intervals that hold the truth)")
    for seeds in (3, 5, 9, 10, 20, 30):
        cells = []
        for bimodal in (False, True):
            draws = rng.normal(size=(trials, seeds)) + (8.0 * (rng.random((trials, seeds)) < 0.7) if bimodal else 0.0)
            indices = resampling_indices(seeds, 1, resamples, seeds)[..., 0]
            large = rng.normal(size=(2000, seeds)) + (8.0 * (rng.random((2000, seeds)) < 0.7) if bimodal else 0.0)
            for statistic in (lambda x: iqm(x, axis=-1), lambda x: x.mean(axis=-1)):
                truth = statistic(large).mean()  # what the statistic of this many seeds is on average
                held = 0
                for scores in draws:
                    low, high = np.quantile(statistic(scores[indices]), (0.025, 0.975))
                    held += low <= truth <= high
                cells.append(f"{100 * held / trials:.0f}")
        print(f"{seeds:5d}           {cells[0]}    {cells[1]}                  {cells[2]}    {cells[3]}")


if __name__ == "__main__":
    coverage() if "--coverage" in sys.argv[1:] else speed()
