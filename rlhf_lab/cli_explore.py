"""``rlhf-lab diff``, ``explain``, ``new-plugin``: where components differ, what one adds up, how to begin one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_lab.cli_options import EXAMPLES, Examples, Json, Plugins, Seed, open_registry, waiting
from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.components import Component

__all__ = ["diff", "explain", "new_plugin"]


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A component, with parameters if you like: gae,lam=0.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one of the same role.")],
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Find where two components differ, on the smallest input. Exit code 0: nowhere; 1: they differ."""
    from rlhf_lab.conformance import diff as find_difference
    from rlhf_lab.study.edit import component_of

    registry = open_registry(plugin)
    pair: list[Component | type[Component]] = []
    for text in (first, second):
        role, given = component_of(text, registry)
        pair.append(registry.create(role, given) if len(given) > 1 else registry.get(role, given["name"]))
    with waiting(f"comparing {first} and {second}"):
        difference = find_difference(pair[0], pair[1], examples=examples, seed=seed)
    if as_json:
        found = {"a": first, "b": second, "examples": examples, "difference": difference and difference.to_dict()}
        typer.echo(json.dumps(found, indent=1))
    elif difference is None:
        typer.echo(f"no difference between {first} and {second} found in {examples} cases")
    else:
        typer.echo("\n".join(difference.lines(first, second)))
    if difference is not None:
        raise typer.Exit(1)


def explain(
    name: Annotated[str, typer.Argument(help="An advantage estimator, with parameters if you like: gae,lam=0.5.")],
    case: Annotated[
        Path | None, typer.Option("--case", metavar="FILE", help="YAML or JSON. Default: an example of its own.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Take one advantage apart. Shows TD errors, the weight of every reward and value, boundaries, bootstrap."""
    from rlhf_lab.conformance import explain as take_apart
    from rlhf_lab.conformance.explanation_case import example_case, read_case
    from rlhf_lab.conformance.taking_apart import refuse_other_roles
    from rlhf_lab.study.edit import component_of

    registry = open_registry(plugin)
    role, given = component_of(name, registry)
    component = registry.get(role, given.pop("name"))
    refuse_other_roles(component)
    asked = example_case(component) if case is None else read_case(case, component, registry)
    instance = registry.create(role, {"name": component.name, **asked.parameters, **given})
    found = take_apart(instance, asked.batch, asked.row, asked.step)
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else "\n".join(found.lines()))


def new_plugin(
    name: Annotated[str, typer.Argument(help="Name of the component and of its package: lower-case words with _.")],
    role: Annotated[str, typer.Option("--role", help="What it is: advantage, objective, ...")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Default: a folder of that name here.")
    ] = None,
) -> None:
    """Write a plugin package to start from. It has one sound component, tests that verify it, and a README."""
    from rlhf_lab.skeleton import ROLES, write_plugin

    registry = open_registry(None)
    if role in ROLES and name in {component.name for component in registry.components(role)}:
        raise LabError(f"{role} {name!r} exists already; two of one name would be ambiguous. Choose another")
    directory = write_plugin(name, role, out)
    typer.echo(
        f"wrote {directory}. Next:\n  pip install -e '{directory}[test]' && pytest {directory}\n"
        f"  rlhf-lab verify {role}/{name}"
    )
