"""Mutation testing of the math: is every small change of a formula noticed by verification or by the tests?

python benchmarks/mutation_testing.py                          all files, two mutants at a time
python benchmarks/mutation_testing.py --only statistics.py     some files
python benchmarks/mutation_testing.py --jobs 1 --json out.json

A warm process forks a child for each mutant. The child imports the changed file in place of the one on disk, verifies
the components that depend on it and, if none fails, runs the tests of that file. Kernels run as plain Python: nothing
is compiled. Survivors are printed with the reason in ``mutation_survivors.yaml``, where there is one.
"""

from __future__ import annotations

import os

os.environ |= {"NUMBA_DISABLE_JIT": "1", "OMP_NUM_THREADS": "1"}
os.environ |= {"RLHF_LAB_PLUGINS": "advantages,objectives", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

import argparse
import gc
import importlib
import json
import pkgutil
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml
from mutation_judge import Mutant, Snapshot, judge
from mutations import mutations
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import rlhf_lab

KILLED = ("import", "verify", "tests")
SPARE = 20.0  # seconds of processor time that a mutant may take beyond three times what its unchanged file does
MEMORY = 16 * 2**30  # bytes of address space of a child: a mutant may ask for a huge tensor
SURVIVORS = Path(__file__).with_name("mutation_survivors.yaml")


def main() -> None:
    options = _options()
    _warm_up()
    began, snapshot, reasons = time.perf_counter(), Snapshot(), _reasons()
    chosen = [m for m in snapshot.sources if not options.only or any(f"{m}.py".endswith(name) for name in options.only)]
    mutants = {module: _mutants(module, snapshot.sources[module]) for module in chosen}
    mutants = {module: found for module, found in mutants.items() if found}
    unchanged = [Mutant(module, 0, "", "unchanged", snapshot.sources[module]) for module in mutants]
    limits: dict[str, float] = {}
    for each in _progress(unchanged, "unchanged", snapshot, options, {}):
        if each.outcome != "survived":
            sys.exit(f"{each.module}: fails as it stands, in {each.outcome}: {each.detail}")
        limits[each.module] = SPARE + 3 * each.seconds
    done = list(_progress([m for found in mutants.values() for m in found], "mutants", snapshot, options, limits))
    for each in done:
        each.reason = reasons.pop((each.module, each.function, each.change), "")
    Console(width=110).print(_table({module: [m for m in done if m.module == module] for module in mutants}))
    survivors = sorted((m for m in done if m.outcome == "survived"), key=lambda m: (m.module, m.line))
    for each in survivors:
        print(f"{each.place} {each.function}: {each.change}\n    {each.reason or 'no reason known'}")
    for each in (m for m in done if m.outcome != "survived" and m.reason):
        print(f"{each.place} {each.change}: killed by {each.detail}; listed as a survivor")
    for module, function, change in (key for key in reasons if key[0] in mutants):
        print(f"no such mutant any more: {module} {function}: {change}")
    seconds = time.perf_counter() - began
    print(f"{seconds / 60:.1f} minutes with {options.jobs} at a time")
    if options.json:
        found = [{k: v for k, v in asdict(each).items() if k != "source"} for each in done]
        options.json.write_text(json.dumps({"seconds": seconds, "mutants": found}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="files to mutate, such as statistics.py")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--examples", type=int, default=25, help="cases that each law is checked with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every mutant and what noticed it")
    return parser.parse_args()


def _warm_up() -> None:
    """Import what every child would, except the plugins."""
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(rlhf_lab.__path__, "rlhf_lab."):
        importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # so that collections in the children touch, and copy, none of it


def _mutants(module: str, source: str) -> list[Mutant]:
    return [Mutant(module, found.line, found.function, found.change, found.source) for found in mutations(source)]


def _reasons() -> dict[tuple[str, str, str], str]:
    """Return why a mutant survives, by module, function and change."""
    listed = yaml.safe_load(SURVIVORS.read_text())
    return {
        (module, function, change): group["why"]
        for module, groups in listed.items()
        for group in groups
        for function, changes in group["mutants"].items()
        for change in changes
    }


def _progress(
    mutants: list[Mutant], title: str, snapshot: Snapshot, options: argparse.Namespace, limits: dict[str, float]
) -> Iterator[Mutant]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), auto_refresh=False) as bar:  # a thread and a fork do not go together
        task = bar.add_task(title, total=len(mutants))
        for each in _judged(mutants, snapshot, options, limits):
            bar.advance(task)
            bar.refresh()
            yield each


def _judged(
    mutants: list[Mutant], snapshot: Snapshot, options: argparse.Namespace, limits: dict[str, float]
) -> Iterator[Mutant]:
    """Yield mutants as their children end, so many at a time."""
    waiting = list(reversed(mutants))
    running: dict[Any, tuple[BaseProcess, Connection, Mutant]] = {}  # by what says that a child ended
    while waiting or running:
        while waiting and len(running) < options.jobs:
            mutant = waiting.pop()
            hear, tell = get_context("fork").Pipe(duplex=False)
            arguments = (mutant, snapshot, options.examples, tell, limits.get(mutant.module))
            child: BaseProcess = get_context("fork").Process(target=_child, args=arguments)
            child.start()
            tell.close()
            running[child.sentinel] = (child, hear, mutant)
        for sentinel in wait(list(running)):
            child, hear, mutant = running.pop(sentinel)
            child.join()
            try:
                while True:
                    mutant.outcome, mutant.detail, mutant.seconds = hear.recv()
            except EOFError:
                hear.close()
            if child.exitcode:
                slow = child.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
                mutant.detail = "time limit" if slow else f"died with {child.exitcode}"
                mutant.seconds = limits.get(mutant.module, 0.0)
            yield mutant


def _child(mutant: Mutant, snapshot: Snapshot, examples: int, tell: Connection, limit: float | None) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 1))
    judge(mutant, snapshot, examples, tell)


def _table(done: dict[str, list[Mutant]]) -> Table:
    table = Table()
    table.add_column("file", no_wrap=True)
    for title in ("mutants", *KILLED, "survived", "killed"):
        table.add_column(title, justify="right")
    everything = [each for found in done.values() for each in found]
    for name, found in [*((f"{m.replace('.', '/')}.py", each) for m, each in done.items()), ("all", everything)]:
        counts = [sum(m.outcome == outcome for m in found) for outcome in (*KILLED, "survived")]
        share = sum(counts[:-1]) / len(found) if found else 1.0
        table.add_row(name, str(len(found)), *map(str, counts), f"{100 * share:.1f} %")
    return table


if __name__ == "__main__":
    main()
