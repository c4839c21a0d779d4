"""The commands about the math of components: ``verify``, ``diff``, ``explain``, ``new-plugin``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from rlhf_lab.cli_options import Json, Plugins, not_loaded, open_registry
from rlhf_lab.errors import LabError, did_you_mean

if TYPE_CHECKING:
    from rlhf_lab.components import Component
    from rlhf_lab.conformance.report import Report
    from rlhf_lab.registry import Registry

__all__ = ["add_commands"]

PATIENCE: Final = 2.0  # seconds after which somebody who watches is told what takes so long
NOT_VERIFIED: Final = 2
EXAMPLES: Final = 100

Examples = Annotated[int, typer.Option("--examples", min=1, help="How many cases.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other cases.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(verify)
    app.command()(diff)
    app.command()(explain)
    app.command("new-plugin")(new_plugin)


def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|ROLE]", help="A component (name or role/name), or all of a role.")
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
    """Check the math of a component: exit code 0 if every law holds, 1 if one fails, 2 if it could not be verified."""
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
        report = _function(function, record, mapping or [], layout, registry, examples, seed, only or ())
        _tell([report(_command(*asked, *options))], 0, as_json, badge, several=False)
        return
    registry = open_registry(plugin, go_on=every or _is_role(name))
    components, several = _chosen(name, registry)
    unverified = _not_served(registry, plugin, name) if several else 0
    wanted = _only(components, registry, only or [], several)
    reports: list[Report] = []
    for component in components:
        if only and not wanted[component]:
            continue
        ask = _command(_shortest(registry, component), *options)
        try:
            with _waiting(f"verifying {component.role}/{component.name}"):
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


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A component, with parameters if you like: gae,lam=0.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one of the same role.")],
    examples: Examples = EXAMPLES,
    seed: Seed = 0,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Find the smallest input on which two components differ: exit code 0 if there is none, 1 if there is."""
    from rlhf_lab.conformance import diff as find_difference
    from rlhf_lab.study.edit import component_of

    registry = open_registry(plugin)
    pair: list[Component | type[Component]] = []
    for text in (first, second):
        role, given = component_of(text, registry)
        pair.append(registry.create(role, given) if len(given) > 1 else registry.get(role, given["name"]))
    with _waiting(f"comparing {first} and {second}"):
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
    """Take one advantage apart: TD errors, the weight of every reward and value, boundaries, bootstrap."""
    from rlhf_lab.conformance import explain as take_apart
    from rlhf_lab.conformance.explanation_case import example_case, read_case
    from rlhf_lab.study.edit import component_of

    registry = open_registry(plugin)
    role, given = component_of(name, registry)
    component = registry.get(role, given.pop("name"))
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
    """Write a plugin package: one sound component, tests that verify it, and a README."""
    from rlhf_lab.skeleton import write_plugin

    directory = write_plugin(name, role, out)
    typer.echo(
        f"wrote {directory}. Next:\n  pip install -e '{directory}[test]' && pytest {directory}\n"
        f"  rlhf-lab verify {role}/{name}"
    )


def _is_role(name: str | None) -> bool:
    from rlhf_lab.conformance.views import VIEWS

    return name is not None and name.removesuffix("/") in VIEWS


def _chosen(name: str | None, registry: Registry) -> tuple[list[type[Component]], bool]:
    """Return the components that are meant, and whether a role or ``--all`` was asked for."""
    from rlhf_lab.conformance.views import VIEWS, view

    if name is None:
        return [component for role in VIEWS for component in registry.components(role)], True
    role = name.removesuffix("/")
    roles = {*VIEWS, *registry.roles()}
    known = {component.name for component in registry.components()} | {n for _, n, _ in registry.ambiguous()}
    if role in roles and (role not in known or name.endswith("/")):
        view(role)
        if not registry.components(role) and not registry.ambiguous(role):
            raise LabError(f"no component of role {role!r} is registered.")
        return registry.components(role), True
    if name in roles:
        raise LabError(f"{name!r} is a role and a component; say {name}/ for all of the role, or role/{name}.")
    try:
        found = registry.find(name)
    except LabError as error:
        possible = "" if "/" in name or name in known else f"\nNor is a role. Roles that do math: {', '.join(VIEWS)}."
        raise LabError(f"{error}{possible}") from None
    view(found.role)
    return [found], False


def _not_served(registry: Registry, plugins: list[str] | None, role: str | None) -> int:
    """Tell of the names that several plugins claim, and return how much that was asked for is not served."""
    from rlhf_lab.conformance.views import VIEWS

    roles = VIEWS if role is None else (role.removesuffix("/"),)
    ambiguous = [each for each in registry.ambiguous() if each[0] in roles]
    for its_role, name, origins in ambiguous:
        both = " and ".join(f"{o.source} ({o.file}:{o.line})" for o in origins)
        typer.echo(f"rlhf-lab: {its_role} {name!r} is ambiguous and not verified: {both} provide it", err=True)
    return len(not_loaded(registry, plugins)) + len(ambiguous)


def _only(
    components: Sequence[type[Component]], registry: Registry, only: Sequence[str], several: bool
) -> dict[type[Component], list[str]]:
    """Return the ids to keep of each component; one that belongs to none of several is refused."""
    from rlhf_lab.conformance import claims_of_role, properties_for

    if not several or not only:
        return {component: list(only) for component in components}
    known: dict[type[Component], set[str]] = {}
    for component in components:
        try:
            checked = [*properties_for(component, registry), *claims_of_role(component.role, registry)]
        except LabError:
            checked = []
        known[component] = {each.id for each in checked}
    possible = set[str]().union(*known.values())
    for unknown in sorted(set(only) - possible):
        raise LabError(f"no property is called {unknown!r}. {did_you_mean(unknown, possible)}")
    return {component: [each for each in only if each in ids] for component, ids in known.items()}


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
    examples: int,
    seed: int,
    only: Sequence[str],
) -> Any:
    """Return what makes the report of a plain function from the command that asks for it again."""
    from rlhf_lab.conformance import verify as judge
    from rlhf_lab.conformance.function import from_function, load_function, parse_mapping
    from rlhf_lab.conformance.report import Report

    if record is None:
        raise LabError("--function needs --as NAME: the definition of record that it is to be compared with.")
    found = load_function(text)
    wrapped = from_function(found, record, parse_mapping(mapping), layout, registry)
    with _waiting(f"verifying {text}"):
        judged = judge(wrapped.subject, examples=examples, seed=seed, registry=registry, only=only, mend=wrapped.mend)
    verdicts = [verdict for verdict in judged if verdict.status != "not_claimed"]  # a function claims nothing
    code = found.__code__
    source = f"{_near(code.co_filename)}:{code.co_firstlineno}"
    title = f"{wrapped.component.role}, as {wrapped.component.implements}"
    return lambda again: Report(wrapped.component, source, verdicts, again, title, wrapped.notes)


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
        typer.echo(f"{len(reports)} components: {len(reports) - failed} hold, {failed} failed{rest}")
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


def _shortest(registry: Registry, component: type[Component]) -> str:
    """Return the name by which the command line finds the component."""
    try:
        return component.name if registry.find(component.name) is component else f"{component.role}/{component.name}"
    except LabError:
        return f"{component.role}/{component.name}"


def _near(file: str) -> str:
    """Return the file as seen from here, where it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Say what takes so long, on the terminal of somebody who watches."""
    from threading import Timer

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    progress.add_task(what, total=None)
    timer = Timer(PATIENCE, progress.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        progress.stop()
