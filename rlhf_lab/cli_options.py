"""What all commands share: options, the registry with all that did not load told of, and a sign that work goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.registry import Broken, Registry

__all__ = ["EXAMPLES", "PATIENCE", "Examples", "Json", "Plugins", "Seed", "not_loaded", "open_registry", "waiting"]

PATIENCE: Final = 2.0  # seconds after which somebody who watches is told what takes so long
EXAMPLES: Final = 100

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py|MODULE", help="Also load this plugin; may be given several times."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Examples = Annotated[int, typer.Option("--examples", min=1, help="How many cases.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other cases.")]


def open_registry(plugins: list[str] | None, *, go_on: bool = False) -> Registry:
    """Return the registry, and tell of plugins that did not load; one that was asked for is an error.

    With ``go_on`` it is told of like the others: for commands about many components, which say so at their end.
    """
    from rlhf_lab.registry import load_plugins

    registry = load_plugins(plugins or ())
    asked_for = not_loaded(registry, plugins)
    if asked_for and not go_on:
        raise LabError(f"plugin {asked_for[0].source} did not load: {asked_for[0].reason}")
    for broken in dict.fromkeys([*registry.broken, *asked_for]):
        typer.echo(f"rlhf-lab: plugin {broken.source} did not load: {broken.reason}", err=True)
    return registry


def not_loaded(registry: Registry, plugins: list[str] | None) -> list[Broken]:
    """Return those of the plugins that were asked for that did not load."""
    return [each for each in [*registry.broken, *registry.missing] if each.source in (plugins or ())]


@contextmanager
def waiting(what: str) -> Iterator[None]:
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
