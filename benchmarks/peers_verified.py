"""Verify what the installed peers compute, and show where the same name means another number.

python benchmarks/peers_verified.py                     both tables, and every broken law with its smallest case
python benchmarks/peers_verified.py --only gae          components whose name contains "gae"
python benchmarks/peers_verified.py --json peers.json   the same as JSON

Needs ``pip install 'rlhf-lab[bench]'``; peers that are missing are told of. Each broken law has a note that says how it
was checked by hand (``peers_notes.py``). Exit code 1 if one has none: then look at it before you believe it. All of it
takes about six minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from peers_differences import differences
from peers_notes import NOTES
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from rlhf_lab.components import Component
from rlhf_lab.conformance import properties_for, verify
from rlhf_lab.conformance.views import VIEWS
from rlhf_lab.registry import Registry, load_plugins

PEERS: Final = {"sb3": "stable-baselines3", "torchrl": "torchrl", "trl": "trl"}
REFUSED: Final = "it refused every case: "


def judged(component: type[Component], registry: Registry, examples: int) -> dict[str, Any]:
    """Return what was found of one component."""
    name = f"{component.role}/{component.name}"
    wanted = [law.id for law in properties_for(component, registry)]
    verdicts = verify(component, examples=examples, registry=registry, only=wanted)
    distribution = PEERS[component.name.partition("@")[2]]
    broken = []
    for verdict in verdicts:
        if verdict.status == "failed":
            note = NOTES.get((name, verdict.property.id))
            case = verdict.counterexample
            broken.append(
                {
                    "law": verdict.property.id,
                    "statement": verdict.property.statement,
                    "source": verdict.property.reference,
                    "parameters": case.parameters if case else {},
                    "inputs": case.inputs if case else {},
                    "got": case.got if case else verdict.message,
                    "expected": case.expected if case else "",
                    "note": None if note is None else note._asdict(),
                }
            )
    return {
        "component": name,
        "implements": component.implements,
        "peer": distribution,
        "version": version(distribution),
        "held": [v.property.id for v in verdicts if v.status == "passed"],
        "broken": broken,
        "refused": {
            v.property.id: v.message.removeprefix(REFUSED)
            for v in verdicts
            if v.status == "skipped" and v.message.startswith(REFUSED)
        },
    }


def print_laws(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        "component", "version", "is", "held", "broken", "refused", box=None, header_style="bold", pad_edge=False
    )
    for each in found:
        broken = [
            f"{item['law']} ({item['note']['kind'] if item['note'] else 'NOT CHECKED'})" for item in each["broken"]
        ]
        refused = Counter(each["refused"].values())
        table.add_row(
            each["component"],
            each["version"],
            each["implements"] or "",
            str(len(each["held"])),
            "\n".join(broken),
            "\n".join(f"{reason} ({count})" for reason, count in refused.items()),
        )
    console.print(table)
    for each in found:
        if each["broken"]:
            console.print(f"\n[bold]{each['component']}[/bold] of {each['peer']} {each['version']}")
            print_broken(each["broken"], console)


def print_broken(broken: list[dict[str, Any]], console: Console) -> None:
    """Print broken laws with their smallest cases; laws that one note explains share it."""
    for note, items in groupby(broken, key=lambda item: item["note"]):
        for item in items:
            case = "  ".join(f"{key}={value}" for key, value in {**item["parameters"], **item["inputs"]}.items())
            print_rows(console, {"law": f"{item['law']}: {item['statement']}", "smallest": case})
            print_rows(console, {"got": item["got"], "expected": item["expected"]})
        print_rows(console, {note["kind"]: note["sentence"], "by hand": note["by_hand"]} if note else {})


def print_rows(console: Console, rows: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, text in rows.items():
        table.add_row(f"  {key:<10}", escape(text))
    console.print(table)


def print_differences(found: list[dict[str, Any]], console: Console) -> None:
    for each in found:
        console.print(f"\n[bold]{escape(each['question'])}[/bold]")
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, number in each["answers"].items():
            table.add_row(f"  {name}", escape(number))
        console.print(table)
        console.print(f"  axis: {each['axis']}", markup=False, highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", default="", metavar="TEXT", help="components whose role/name contains this")
    parser.add_argument("--examples", type=int, default=300, help="cases per law (default 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to this file")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)  # a file is not 80 columns wide

    registry = load_plugins([f"rlhf_lab_peers.{peer}" for peer in PEERS])
    for missing in dict.fromkeys(each.reason for each in registry.missing):
        console.print(missing, markup=False)
    peers = [
        component
        for component in registry.components()
        if component.name.partition("@")[2] in PEERS
        and component.role in VIEWS
        and options.only in f"{component.role}/{component.name}"
    ]
    found = [
        judged(component, registry, options.examples)
        for component in track(peers, "verifying", console=Console(stderr=True), transient=True)
    ]
    print_laws(found, console)
    unlike = [each._asdict() for each in differences(registry)] if not options.only else []
    if unlike:
        console.print("\n[bold]Same name, different number[/bold]")
        print_differences(unlike, console)
    if options.json:
        options.json.write_text(json.dumps({"laws": found, "differences": unlike}, indent=1), encoding="utf-8")
    unchecked = [f"{each['component']} {item['law']}" for each in found for item in each["broken"] if not item["note"]]
    for each in unchecked:
        console.print(f"not checked by hand: {each}", style="bold", markup=False)
    return 1 if unchecked else 0


if __name__ == "__main__":
    sys.exit(main())
