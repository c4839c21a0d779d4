"""How well verification judges: right components pass, wrong ones fail, in seconds, with cases checkable by hand.

python benchmarks/verification_figures.py                          everything, two components at a time: about an hour
python benchmarks/verification_figures.py --only components kl     some parts, some roles
python benchmarks/verification_figures.py --json out.json

Components: those of the first-party plugins, verified with the defaults of ``verify``, with 1000 examples, and with 20
random settings. Controls: right components in another form. Mutants: wrong ones, verified once with the definition and
the claims of what they imitate; "implementing" leaves out what only claims caught, "claiming" what only the definition
did. Seconds are of processor time, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from mutants.counterexamples import steps_and_digits
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rlhf_lab.cli_choice import chosen
from rlhf_lab.conformance import Verdict, verify
from rlhf_lab.conformance.properties import all_properties
from rlhf_lab.conformance.settings import alternatives
from rlhf_lab.conformance.views import VIEWS
from rlhf_lab.registry import load_plugins

PARTS: Final = ("components", "controls", "mutants")
MANY: Final = 1000
SETTINGS: Final = 20
Found = dict[str, Any]


def main() -> None:
    options = _options()
    tasks = list(_tasks(options.only))
    with ProcessPoolExecutor(options.jobs, initializer=_prepare) as pool:
        futures = {pool.submit(_JUDGES[part], role, n): (part, role, n) for part, role, n in tasks}
        done = track(as_completed(futures), "verifying", len(futures), console=Console(stderr=True))
        found = {futures[future]: future.result() for future in done}
    told = [{"part": part, "role": role, **found[part, role, n]} for part, role, n in tasks]
    for part in PARTS:
        if rows := [each for each in told if each["part"] == part]:
            Console(width=120).print(_show_mutants(rows) if part == "mutants" else _show_right(part, rows))
    for each in told:
        name = f"{each['role']}/{each['name']}"
        for alarm in each.get("alarms", ()):
            print(f"false alarm: {name}: {alarm}")
        for way in ("implementing", "claiming"):
            if not each.get(way, True):
                print(f"not caught when {way}: {name} ({each['bug']})")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], choices=[*PARTS, *VIEWS], metavar="PART|ROLE")
    parser.add_argument("--jobs", type=int, default=2, help="components at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    return parser.parse_args()


def _tasks(only: list[str]) -> Iterator[tuple[str, str, int]]:
    for part in [part for part in PARTS if part in only] or PARTS:
        for role in [role for role in VIEWS if role in only] or VIEWS:
            for n in range(len(_LISTS[part](role))):
                yield part, role, n


@cache
def _components(role: str) -> list[Any]:
    return chosen(f"{role}/", load_plugins())[0]


def _controls(role: str) -> list[Any]:
    return list(getattr(import_module(f"mutants.{role}"), "CONTROLS", ()))


def _mutants(role: str) -> list[Any]:
    return list(import_module(f"mutants.{role}").MUTANTS)


def _prepare() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a mutant may divide by nothing


def _judge_component(role: str, n: int) -> Found:
    component = _components(role)[n]
    seconds, alarms = _alarms(component, "defaults")
    alarms += _alarms(component, f"{MANY} examples", MANY)[1]
    for each in _settings(component):
        alarms += _alarms(each, repr(each))[1]
    return {"name": component.name, "seconds": seconds, "alarms": alarms}


def _settings(component: type[Any]) -> list[Any]:
    """Return components with random parameters within their bounds; none of one without parameters."""
    chance, found = random.Random(0), list[Any]()
    choices = {name: alternatives(info) for name, info in component.model_fields.items()}
    while choices and len(found) < SETTINGS:
        with suppress(ValidationError):  # two parameters may exclude each other
            found.append(component(**{name: _anything(values, chance) for name, values in choices.items()}))
    return found


def _anything(values: list[Any], chance: random.Random) -> Any:
    """Return one of the values; in place of a float, any float between the smallest and the largest."""
    chosen, floats = chance.choice(values), [x for x in values if isinstance(x, float)]
    return chance.uniform(min(floats), max(floats)) if isinstance(chosen, float) else chosen


def _judge_control(role: str, n: int) -> Found:
    component = _controls(role)[n]
    seconds, alarms = _alarms(component, "defaults")
    return {"name": component.name, "seconds": seconds, "alarms": alarms + _alarms(component, "many", MANY)[1]}


def _alarms(component: Any, how: str, examples: int = 100) -> tuple[float, list[str]]:
    began = time.process_time()
    failed = _failed(component, examples)
    return time.process_time() - began, [f"{how}: {each.property.id}: {each.message}" for each in failed]


def _judge_mutant(role: str, n: int) -> Found:
    mutant = _mutants(role)[n]
    began = time.process_time()
    failed = _failed(mutant.declaring_both())
    seconds = time.process_time() - began
    broken, claims = {each.property.id for each in failed}, {law.id for law in all_properties(role) if law.claim}
    cases = [each.counterexample.inputs for each in failed if each.counterexample and each.counterexample.inputs]
    sizes = [steps_and_digits(inputs) for inputs in cases]
    return {
        "name": mutant.component.name,
        "bug": mutant.bug,
        "seconds": seconds,
        "broken": sorted(broken),
        "implementing": bool(broken - claims),
        "claiming": bool(broken - {mutant.oracle_id()}),
        "steps": [steps for steps, _ in sizes],
        "digits": [digits for _, digits in sizes],
    }


def _failed(component: Any, examples: int = 100) -> list[Verdict]:
    return [verdict for verdict in verify(component, examples=examples) if verdict.status == "failed"]


def _show_right(part: str, rows: list[Found]) -> Table:
    table = _table(part, "verified", "false alarms", "seconds: median", "longest", "of")
    for role in dict.fromkeys(each["role"] for each in rows):
        found = [each for each in rows if each["role"] == role]
        longest = max(found, key=lambda each: float(each["seconds"]))
        seconds = [f"{statistics.median(x['seconds'] for x in found):.1f}", f"{longest['seconds']:.1f}"]
        alarms = sum(len(each["alarms"]) for each in found)
        table.add_row(role, str(len(found)), str(alarms), *seconds, longest["name"])
    return table


def _show_mutants(rows: list[Found]) -> Table:
    titles = ("verified", "caught, implementing", "claiming", "median steps", "digits", "seconds: median", "longest")
    table = _table("mutants", *titles)
    for role in [*dict.fromkeys(each["role"] for each in rows), "all"]:
        found = [each for each in rows if role in (each["role"], "all")]
        caught = [f"{100 * statistics.mean(x[way] for x in found):.1f} %" for way in ("implementing", "claiming")]
        sizes = [f"{statistics.median(s for x in found for s in x[what]):g}" for what in ("steps", "digits")]
        seconds = [float(x["seconds"]) for x in found]
        table.add_row(
            role, str(len(found)), *caught, *sizes, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"
        )
    return table


def _table(part: str, *titles: str) -> Table:
    table = Table(title=part)
    table.add_column("role", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right")
    return table


_JUDGES: Final[dict[str, Callable[[str, int], Found]]] = {
    "components": _judge_component,
    "controls": _judge_control,
    "mutants": _judge_mutant,
}
_LISTS: Final = {"components": _components, "controls": _controls, "mutants": _mutants}


if __name__ == "__main__":
    main()
