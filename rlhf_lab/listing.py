"""What ``rlhf-lab list``, ``show`` and ``studies`` say, as data and as tables."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from rlhf_lab.components import Component
from rlhf_lab.discovery import LOCAL
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry
from rlhf_lab.skeleton import ROLES as VERIFIABLE
from rlhf_lab.verified import recall
from rlhf_lab.yaml_file import load_yaml

__all__ = ["described", "listed", "named_studies", "print_component", "print_list", "print_studies"]


def listed(registry: Registry, role: str | None, *, broken_only: bool = False) -> dict[str, Any]:
    """Return the components, the names that several plugins claim, and the plugins that did not load."""
    return {
        "components": [] if broken_only else [_entry(registry, c) for c in registry.components(role)],
        "ambiguous": [
            {"role": its_role, "name": name, "sources": [origin.place for origin in origins]}
            for its_role, name, origins in registry.ambiguous(role)
        ],
        "broken": [
            {"source": b.source, "reason": b.reason}
            for b in [*registry.broken, *(registry.missing if broken_only else [])]
        ],
    }


def described(registry: Registry, component: type[Component]) -> dict[str, Any]:
    """Return everything that is known of a component."""
    origin = registry.origin(component)
    return {
        **_entry(registry, component),
        "doc": inspect.cleandoc(component.__doc__ or ""),
        "parameters": [
            {
                "name": name,
                "type": _type_name(info.annotation),
                "default": _plain(info.get_default(call_default_factory=True)),
                "bounds": _bounds(info),
                "description": info.description or "",
            }
            for name, info in component.model_fields.items()
        ],
        "requires": sorted(component.requires),
        "claims": sorted(component.claims),
        "verified": {name: vars(found) for name, found in recall(component, origin).items()},
        "implements": component.implements,
        "conventions": dict(component.conventions),
        "scope": component.scope,
        "source": f"{origin.file}:{origin.line}",
    }


def named_studies(registry: Registry) -> list[dict[str, str]]:
    """Return name, title and file of the shipped studies; of a file that cannot be read the reason, for a title."""
    found = []
    for name, paths in sorted(registry.studies.items()):
        for path in paths:
            try:
                title = str(load_yaml(path)[0].get("title", ""))
            except LabError as error:
                title = str(error)
            found.append({"name": name, "title": title, "file": str(path)})
    return found


def print_list(registry: Registry, role: str | None, *, broken_only: bool = False) -> None:
    """Print the components as a table, then what is ambiguous and the plugins that did not load."""
    console = Console()
    data = listed(registry, role, broken_only=broken_only)
    if data["components"]:
        table = Table("role", "name", "what it is", "from", box=None, header_style="bold", pad_edge=False)
        for entry in data["components"]:
            table.add_row(entry["role"], entry["name"], escape(entry["summary"]), escape(entry["from"]))
        console.print(table)
    for entry in data["ambiguous"]:
        both = " and ".join(entry["sources"])
        console.print(f"ambiguous: {entry['role']} {entry['name']!r}: {both} provide it; rename one", markup=False)
    for broken in data["broken"]:
        console.print(f"not loaded: {broken['source']}: {broken['reason']}", markup=False)
    if broken_only and not data["ambiguous"] and not data["broken"]:
        console.print("every plugin loaded")


def print_component(registry: Registry, component: type[Component]) -> None:
    """Print a component's documentation, parameters and origin."""
    console = Console()
    data = described(registry, component)
    console.print(f"[bold]{data['name']}[/bold]  ({data['role']})  {data['from']}\n")
    console.print(Markdown(data["doc"]))
    console.print()
    if data["parameters"]:
        table = Table("parameter", "default", "bounds", "meaning", box=None, header_style="bold", pad_edge=False)
        for row in data["parameters"]:
            table.add_row(row["name"], escape(str(row["default"])), row["bounds"], escape(row["description"]))
        console.print(table)
        console.print()
    for label, value in (
        ("needs", ", ".join(data["requires"])),
        *_verified(registry, component),
        ("scope", data["scope"]),
        ("reference", data["reference"]),
        ("source", data["source"]),
    ):
        if value:
            console.print(f"{label:<11}{value}", markup=False, highlight=False, soft_wrap=True)


def _verified(registry: Registry, component: type[Component]) -> list[tuple[str, str]]:
    """Return lines that say of claims, definition and laws whether verification found them to hold."""
    origin = registry.origin(component)
    found = recall(component, origin)
    names = [each.name for each in registry.components()]
    asked = component.name if names.count(component.name) == 1 else f"{component.role}/{component.name}"
    plugin = f" --plugin {origin.source}" if origin.distribution == LOCAL else ""
    unknown = f"not verified yet: rlhf-lab verify {asked}{plugin}"
    words = {"passed": "verified", "failed": "FAILED", "skipped": "not judged"}

    def told(law: str) -> str:
        if law not in found or found[law].status not in words:
            return unknown
        last = found[law]
        cases = "1 case" if last.examples == 1 else f"{last.examples} cases"
        return f"{words[last.status]} ({cases}, {last.day})"

    claims = sorted(component.claims)
    width = max(map(len, claims), default=0)
    lines = [("" if i else "claims", f"{claim:<{width}}  {told(claim)}") for i, claim in enumerate(claims)]
    oracle = f"is-{component.implements}".replace("_", "-")
    if component.implements:
        lines.append(("implements", f"{component.implements}  {told(oracle)}"))
    laws = {name: each for name, each in found.items() if name not in (*claims, oracle) and each.status in words}
    failed = sorted(name for name, each in laws.items() if each.status == "failed")
    held = sum(each.status == "passed" for each in laws.values())
    if laws:
        lines.append(("laws", f"{held} verified" + (f", FAILED: {', '.join(failed)}" if failed else "")))
    elif component.role in VERIFIABLE:
        lines.append(("laws", unknown))
    return lines


def print_studies(registry: Registry) -> None:
    """Print the named studies as a table."""
    table = Table("study", "what it asks", box=None, header_style="bold", pad_edge=False)
    for study in named_studies(registry):
        table.add_row(study["name"], escape(study["title"]))
    Console().print(table)


def _entry(registry: Registry, component: type[Component]) -> dict[str, Any]:
    origin = registry.origin(component)
    summary = inspect.cleandoc(component.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return {
        "role": component.role,
        "name": component.name,
        "summary": summary,
        "reference": component.reference,
        "from": f"{origin.source} {origin.version}".strip(),
    }


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Component) else value


def _type_name(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not get_args(annotation)
    return annotation.__name__ if plain else str(annotation).replace("typing.", "")


def _bounds(info: FieldInfo) -> str:
    """Return what a parameter may be: ``≥ 0 ≤ 1``, or the words that it may be."""
    if get_origin(info.annotation) is Literal:
        return " or ".join(map(str, get_args(info.annotation)))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{s} {getattr(m, key)}" for m in info.metadata for key, s in signs.items() if hasattr(m, key))
