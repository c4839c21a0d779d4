"""Runs the arms of a study side by side in worker processes, one thread each.

An arm's numbers do not depend on where it runs. A worker gets names only (study, plugins, directory) and leaves its
result in the run directory, so nothing but text and numbers crosses between processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

from rlhf_lab.registry import load_plugins
from rlhf_lab.study.plan import Plan, make_plan
from rlhf_lab.study.schema import Study
from rlhf_lab.study.store import Store

__all__ = ["run_arms"]

Task = tuple[int, str, str, tuple[str, ...]]  # number of the arm, study as JSON, run directory, plugins
POLL_SECONDS: Final = 0.1

_progress: Any = None  # of a worker: the queue on which it reports, and its parent
_parent = 0


def run_arms(
    arms: Iterable[int],
    study: str,
    directory: Path,
    plugins: tuple[str, ...],
    workers: int,
    watch: Callable[[int, float], None],
) -> None:
    """Run the arms of these numbers; each leaves its result in the directory. ``watch`` is told arm and part done."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-flight
    reports = context.SimpleQueue()
    tasks: list[Task] = [(number, study, str(directory), plugins) for number in arms]
    with context.Pool(
        workers, _begin, (reports, os.getpid())
    ) as pool:  # leaving it ends the workers, whatever happened
        answer = pool.map_async(_work, tasks, chunksize=1)
        ready = False
        while not ready:
            answer.wait(POLL_SECONDS)
            ready = answer.ready()  # asked before the queue is emptied, so that no last report is lost
            while not reports.empty():
                watch(*reports.get())
        answer.get()  # raises what a worker raised


def _begin(reports: Any, parent: int) -> None:
    global _progress, _parent
    _progress, _parent = reports, parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers


def _work(task: Task) -> None:
    number, study, directory, plugins = task
    last = -1.0

    def report(fraction: float) -> None:
        nonlocal last
        if os.getppid() != _parent:  # the parent was killed; the checkpoint stands
            os._exit(1)
        if fraction - last >= 0.01 or fraction >= 1:
            last = fraction
            _progress.put((number, fraction))

    _plan(study, plugins).run(number, Store(Path(directory)), report)


@cache
def _plan(study: str, plugins: tuple[str, ...]) -> Plan:
    return make_plan(Study.model_validate_json(study), load_plugins(plugins))
