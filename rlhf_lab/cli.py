"""The ``rlhf-lab`` command. Everything heavy is imported inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, NoReturn

import typer

from rlhf_lab.cli_data import data
from rlhf_lab.cli_explore import diff, explain, new_plugin
from rlhf_lab.cli_options import Json, Plugins, open_registry
from rlhf_lab.cli_verify import verify
from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.study.results import Results

__all__ = ["app", "main"]

INTERRUPTED: Final = 130  # what typer returns after Ctrl-C

app = typer.Typer(
    name="rlhf-lab",
    help="A laboratory for the algorithms of RLHF in which the truth is known.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory. Default: below ./runs.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=v", help="Change a value of the spec, or seeds=N.")
]


@app.command("list")
def list_components(
    role: Annotated[str | None, typer.Argument(help="Only components of this role.")] = None,
    broken: Annotated[bool, typer.Option("--broken", help="Show only what is not served, and why.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what is registered and from where."""
    from rlhf_lab.listing import listed, print_list

    registry = open_registry(plugin)
    if role is not None and role not in registry.roles():
        raise LabError(f"no component has the role {role!r}. Roles: {', '.join(registry.roles())}.")
    if as_json:
        typer.echo(json.dumps(listed(registry, role, broken_only=broken), indent=1))
    else:
        print_list(registry, role, broken_only=broken)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a component, or role/name.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show a component's formula, parameters, claims, source line."""
    from rlhf_lab.listing import described, print_component

    registry = open_registry(plugin)
    component = registry.find(name)
    if as_json:
        typer.echo(json.dumps(described(registry, component), indent=1, default=str))
    else:
        print_component(registry, component)


@app.command()
def compare(
    study: Annotated[
        str, typer.Argument(help="Name of a shipped study, or a YAML file. `rlhf-lab studies` lists them.")
    ],
    arm: Annotated[
        list[str] | None, typer.Option("--arm", metavar="NAME,p=v", help="Add an arm with this component.")
    ] = None,
    settings: Settings = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds.")] = None,
    out: Out = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Arms side by side. Default: one per core, where it pays.")
    ] = None,
    show_yaml: Annotated[bool, typer.Option("--print", help="Print the study's YAML and stop.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Run all arms x seeds of a study and write the report. The same command again goes on where it stopped."""
    from rlhf_lab.study.api import compare as run_study
    from rlhf_lab.study.api import find_study, make_study
    from rlhf_lab.study.edit import edit_study, study_places, study_yaml
    from rlhf_lab.study.store import fingerprint

    registry = open_registry(plugin)
    name, data, where = find_study(study, registry)
    changed = edit_study(data, registry, arms=arm or [], settings=settings or [], seeds=seeds)
    if show_yaml:
        typer.echo(study_yaml(changed), nl=False)
        return
    label = name if changed == data else f"{name}-{fingerprint(changed)}"
    directory = out or Path("runs") / label
    where = study_places(where, changed, arms=arm or [], settings=settings or [], seeds=seeds)
    with _watching() as watch:
        results = run_study(
            make_study(changed, where),
            plugins=plugin or (),
            registry=registry,
            out=directory,
            workers=workers,
            name=name,
            where=where,
            watch=watch,
        )
    _finish(results, directory, as_json)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="YAML file of one training run.")],
    settings: Settings = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="The run's seed.")] = 0,
    out: Out = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Run one spec with one seed."""
    from rlhf_lab.study.api import run as run_spec
    from rlhf_lab.study.edit import apply_settings, spec_places
    from rlhf_lab.yaml_file import load_yaml

    registry = open_registry(plugin)
    data, where = load_yaml(spec)
    changed = apply_settings(data, settings or [])
    where = spec_places(where, settings or [])
    directory = out or Path("runs") / spec.stem
    with _watching() as watch:
        results = run_spec(
            changed,
            registry=registry,
            out=directory,
            seed=seed,
            name=spec.stem,
            where=where,
            watch=watch,
        )
    _finish(results, directory, as_json)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Rebuild the report of a run directory."""
    from rlhf_lab.study.report.page import write_report
    from rlhf_lab.study.store import Store

    if plugin:
        open_registry(plugin)  # a report needs no plugin; one that does not load is told of, as with every command
    results = Store(directory).results()
    write_report(results, directory)
    _finish(results, directory, as_json)


@app.command()
def studies(plugin: Plugins = None, as_json: Json = False) -> None:
    """Show the named studies that plugins ship."""
    from rlhf_lab.listing import named_studies, print_studies

    registry = open_registry(plugin)
    if as_json:
        typer.echo(json.dumps(named_studies(registry), indent=1))
    else:
        print_studies(registry)


@app.command()
def schema(
    what: Annotated[Literal["study", "run"], typer.Argument(help="Of what.")] = "study",
    plugin: Plugins = None,
) -> None:
    """Print the JSON Schema of a study or a run spec, for editors."""
    from rlhf_lab.schema import json_schema

    typer.echo(json.dumps(json_schema(open_registry(plugin), what), indent=1))


app.command()(verify)
app.command()(diff)
app.command()(explain)
app.command()(data)
app.command("new-plugin")(new_plugin)


def main() -> NoReturn:
    """Run the command; whatever a user can mend is told in words, with exit code 2."""
    try:
        code = app(standalone_mode=False)
    except LabError as error:
        _fail(str(error), 2)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of the command line
            _fail(error.format_message(), error.exit_code)
        raise
    if code == INTERRUPTED:
        _fail("interrupted. What was finished is kept; the same command goes on from there.", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"rlhf-lab: {message}", err=True)
    sys.exit(code)


@contextmanager
def _watching() -> Iterator[Callable[[str, int, int, float], None]]:
    """Show a progress bar over all arms with the time that is left; silent where nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.fields[arm]}", justify="right"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[finished]}/{task.fields[total_arms]} arms"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0, arm="", finished=0, total_arms=0)

        def watch(arm: str, finished: int, total: int, fraction: float) -> None:
            bar.update(task, completed=fraction, arm=arm, finished=finished, total_arms=total)

        yield watch


def _finish(results: Results, directory: Path, as_json: bool) -> None:
    from rich.console import Console

    from rlhf_lab.study.report.terminal import print_summary

    report = directory / "report.html"
    if as_json:
        typer.echo((directory / "results.json").read_text(encoding="utf-8"))
        return
    print_summary(results, Console())
    typer.echo(f"report: {report}")
