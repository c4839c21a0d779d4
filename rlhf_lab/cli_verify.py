"""``rlhf-lab verify``: is the math of a component right?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from rlhf_lab.cli_choice import chosen, ids_of_each, is_role, not_served, shortest
from rlhf_lab.cli_options import EXAMPLES, Examples, Json, Plugins, Seed, open_registry, waiting
from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.components import Component
    from rlhf_lab.conformance.report import Report
    from rlhf_lab.registry import Registry

__all__ = ["verify"]

NOT_VERIFIED: Final = 2


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME|ROLE", help="A component (name or role/name), or all of a role.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every component that does math.")] = False,
    function: Annotated[
        str | None, typer.Option("--function", metavar="FILE.py:fn", help="A plain function instead of a component.")
    ] = None,
    record: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The definition that --function implements.")
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=ARGUMENT,...", help="Which argument of --function takes which field."),
    ] = None,
    layout: Annotated[
        Literal["rows", "time-first", "row"],
        typer.Option("--layout", help="Arrays of --function: [rows, t], [t, rows], or [t] of one row at a time."),
    ] = "rows",
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Only this property; may be given several times.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
    badge: Annotated[bool, typer.Option("--badge", help="Print one line of Markdown for a README.")] = False,
) -> None:
    """Check the math of a component. Exit code 0: every law holds; 1: one fails; 2: it could not be verified."""
    if sum((name is not None, every, function is not None)) != 1:
        raise LabError("verify takes one of: the NAME of a component, a ROLE, --all, --function FILE.py:fn.")
    if as_json and badge:
        raise LabError("--json and --badge exclude each other.")
    if function is None and (record or mapping or layout != "rows"):
        raise LabError("--as, --map and --layout describe a --function FILE.py:fn.")
    options = [*_repeated("--plugin", plugin)]
    options += ["--examples", str(examples)] if examples != EXAMPLES else []
    options += ["--seed", str(seed)] if seed else []
    if function is not None:
        registry = open_registry(plugin)
        asked = ["--function", function, "--as", record or "", *_repeated("--map", mapping)]
        asked += ["--layout", layout] if layout != "rows" else []
        again = _command(*asked, *options)
        report = _function(function, record, mapping or [], layout, registry, again, examples, seed, only or ())
        _tell([report], 0, as_json, badge, several=False)
        return
    registry = open_registry(plugin, go_on=every or is_role(name))
    components, several = chosen(name, registry)
    unverified = not_served(registry, plugin, name) if several else 0
    wanted = ids_of_each(components, registry, only or [], several)
    reports: list[Report] = []
    for component in components:
        if only and not wanted[component]:
            continue
        ask = _command(shortest(registry, component), *options)
        try:
            with waiting(f"verifying {component.role}/{component.name}"):
                report = _report(component, registry, ask, examples, seed, wanted[component])
        except LabError as error:
            if not several:
                raise
            typer.echo(f"rlhf-lab: {component.role}/{component.name} could not be verified: {error}", err=True)
            unverified += 1
            continue
        reports.append(report)
        if several and not (as_json or badge):
            _echo(report, brief=True)
    _tell(reports, unverified, as_json, badge, several=several)


def _report(
    component: type[Component], registry: Registry, again: str, examples: int, seed: int, only: Sequence[str]
) -> Report:
    from rlhf_lab.conformance import verify as judge
    from rlhf_lab.conformance.report import Report
    from rlhf_lab.verified import remember

    origin = registry.origin(component)
    verdicts = judge(component, examples=examples, seed=seed, registry=registry, only=only)
    remember(component, origin, [(v.property.id, v.status, v.examples) for v in verdicts])
    return Report(component, f"{_near(origin.file)}:{origin.line}", verdicts, again)


def _function(
    text: str,
    record: str | None,
    mapping: Sequence[str],
    layout: Any,
    registry: Registry,
    again: str,
    examples: int,
    seed: int,
    only: Sequence[str],
) -> Report:
    from rlhf_lab.conformance import verify as judge
    from rlhf_lab.conformance.function import from_function, load_function, parse_mapping
    from rlhf_lab.conformance.report import Report

    if record is None:
        raise LabError("--function needs --as NAME: the definition of record that it is to be compared with.")
    found = load_function(text)
    wrapped = from_function(found, record, parse_mapping(mapping), layout, registry)
    with waiting(f"verifying {text}"):
        judged = judge(wrapped.subject, examples=examples, seed=seed, registry=registry, only=only, mend=wrapped.mend)
    verdicts = [verdict for verdict in judged if verdict.status != "not_claimed"]  # a function claims nothing
    code = found.__code__
    source = f"{_near(code.co_filename)}:{code.co_firstlineno}"
    title = f"{wrapped.component.role}, as {wrapped.component.implements}"
    return Report(wrapped.component, source, verdicts, again, title, wrapped.notes)


def _tell(reports: Sequence[Report], unverified: int, as_json: bool, badge: bool, *, several: bool) -> None:
    """Print the reports, and exit with what they say."""
    if as_json:
        found = [report.to_dict() for report in reports]
        typer.echo(json.dumps(found if several else found[0], indent=1))
    elif badge:
        for report in reports:
            typer.echo(report.badge())
    elif several:
        failed = sum(report.failed for report in reports)
        rest = f", {unverified} not verified" if unverified else ""
        what = "1 component" if len(reports) == 1 else f"{len(reports)} components"
        typer.echo(f"{what}: {len(reports) - failed} hold, {failed} failed{rest}")
    else:
        for report in reports:
            _echo(report)
    if any(report.failed for report in reports):
        raise typer.Exit(1)
    if unverified:
        raise typer.Exit(NOT_VERIFIED)


def _echo(report: Report, *, brief: bool = False) -> None:
    colours = {"  pass": "green", "  FAIL": "red"}
    for line in report.lines(brief=brief):
        colour = colours.get(line[:6])
        typer.echo(typer.style(line[:6], fg=colour, bold=True) + line[6:] if colour else line)


def _command(*words: str) -> str:
    return shlex.join(["rlhf-lab", "verify", *words])


def _repeated(option: str, values: Sequence[str] | None) -> list[str]:
    return [word for value in values or () for word in (option, value)]


def _near(file: str) -> str:
    """Return the file as seen from here, where it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
