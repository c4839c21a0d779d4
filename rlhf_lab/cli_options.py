"""What all commands share: options, and the registry with everything that did not load told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.registry import Broken, Registry

__all__ = ["Json", "Plugins", "not_loaded", "open_registry"]

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE.py|MODULE", help="Also load this plugin; may be given several times."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


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
