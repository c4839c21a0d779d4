"""How long a whole study of preference losses takes, and where an optimiser step's time goes.

    python benchmarks/preference_study.py [--workers 2] [--seeds 50] [--updates 2000]

The study: ten losses on the same 2,560 pairs per seed, 4 tokens x length 4, 256 pairs per optimiser step, through
``compare`` with recording of the exact objective and likelihoods at 50 points, statistics and the written report. CPU
seconds are those of all processes together: on cores that have nothing else to do, wall time is about their share.

Then one arm's step taken apart, in one process with one thread, without the study around it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from rlhf_lab import compare
from rlhf_lab.registry import load_plugins
from rlhf_lab.spec import make_spec
from rlhf_lab.study.runner import start

LOSSES: Final = ("dpo", "cdpo", "ipo", "hinge", "simpo", "orpo", "dpop", "sppo", "nca", "exo")
POINTS: Final = 50
SPEC: Final[dict[str, Any]] = {
    "environment": {"name": "sequences", "vocabulary": 4, "length": 4},
    "policy": "tabular_autoregressive",
    "trainer": {"name": "offline", "minibatch": 256},
    "data": {"name": "sampled", "rows": 2560},
    "preference": "dpo",
    "optimizer": {"name": "adam", "lr": 0.01},
    "gamma": 1.0,
}
PARTS: Final = {  # of a step: functions by file and name
    "minibatch: order and rows": ("epochs.py", "batch"),
    "policy and reference score the responses": ("actor.py", "score"),
    "objective, weights and its metrics": ("item_loss.py", "__call__"),
    "likelihoods, margin, accuracy": ("ranking_metrics.py", "ranking_metrics"),
    "gradient and optimiser": ("step.py", "step"),
    "are the weights sound": ("step.py", "check_weights"),
}


def whole_study(seeds: int, updates: int, workers: int) -> tuple[float, float]:
    """Return wall and CPU seconds of the study, from the call to the written report."""
    per_point = max(1, updates // POINTS)
    spec = SPEC | {
        "trainer": {**SPEC["trainer"], "updates": per_point},
        "budget": {"iterations": max(1, updates // per_point)},
    }
    study = {
        "title": "preference losses",
        "spec": spec,
        "arms": {name: {"preference": name} for name in LOSSES},
        "seeds": seeds,
        "measure": ["learning_curve", "regularised", "likelihood"],
    }
    with tempfile.TemporaryDirectory() as directory:
        began, used = time.perf_counter(), _cpu_seconds()
        compare(study, out=directory, workers=workers)
        return time.perf_counter() - began, _cpu_seconds() - used


def _cpu_seconds() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def taken_apart(seeds: int, steps: int) -> tuple[float, dict[str, float]]:
    """Return the CPU milliseconds of an optimiser step of one arm, and of its parts."""
    spec = SPEC | {"trainer": {**SPEC["trainer"], "updates": steps}}
    learner = start(make_spec(spec, load_plugins())[0], list(range(seeds)))
    learner.step(0.0)
    began = time.process_time()
    learner.step(0.0)
    whole = time.process_time() - began
    profile = cProfile.Profile(time.process_time)
    profile.runcall(learner.step, 0.0)
    stats: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    parts = {
        part: sum(
            row[3] for (path, _, name), row in stats.items() if path.endswith(f"/{place[0]}") and name == place[1]
        )
        for part, place in PARTS.items()
    }
    return 1e3 * whole / steps, {part: 1e3 * seconds / steps for part, seconds in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--updates", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    step, parts = taken_apart(options.seeds, 100)
    table = Table(f"one optimiser step of {options.seeds} seeds x 256 pairs", "CPU ms")
    for part, milliseconds in parts.items():
        table.add_row(part, f"{milliseconds:.2f}")
    table.add_row("all of it, without the profiler", f"{step:.2f}")
    console.print(table)
    wall, cpu = whole_study(options.seeds, options.updates, options.workers)
    console.print(
        f"{len(LOSSES)} arms x {options.seeds} seeds x {options.updates} steps, {options.workers} workers: "
        f"{wall:.0f} s wall, {cpu:.0f} s CPU in all processes"
    )


if __name__ == "__main__":
    main()
