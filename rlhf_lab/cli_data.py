"""``rlhf-lab data``: what stands in files of preference data, and is it sound?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from rlhf_lab.cli_options import PATIENCE, Json, Plugins, open_registry

__all__ = ["data"]


def data(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JSON Lines or Parquet files, or patterns.")],
    form: Annotated[
        str | None,
        typer.Option("--form", help="pairs, implicit_pairs, rankings or labels. Default: by the columns."),
    ] = None,
    on_bad_row: Annotated[
        Literal["stop", "skip"], typer.Option("--on-bad-row", help="Stop at the first one, or skip and count.")
    ] = "stop",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop when so many rows are used.")] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Check files of preference data row by row. Exit code 0: all is good; 1: not all; 2: it could not be read."""
    from rich.console import Console

    from rlhf_lab.data.errors import BadDataError, BadRowError
    from rlhf_lab.data.files import read_rankings
    from rlhf_lab.data.summary import Summary

    if plugin:
        open_registry(plugin)  # files need no plugin; one that does not load is told of, as with every command
    summary, problem, whole = Summary(), "", True
    try:
        with _reading() as watch:
            for _ in read_rankings(files, form=form, on_bad_row=on_bad_row, limit=limit, summary=summary, watch=watch):
                pass
    except BadDataError as error:
        problem, whole = str(error), not isinstance(error, BadRowError)
    if as_json:
        typer.echo(json.dumps(summary.to_dict() | {"problem": problem or None}, indent=1))
    elif whole:
        Console().print(summary.table())
    if problem:
        typer.echo(f"rlhf-lab: {problem}", err=True)
    if not whole and not as_json:
        typer.echo(f"The rows before it are good: {summary.used:,}. --on-bad-row skip reads on and counts.", err=True)
    if problem or summary.skipped:
        raise typer.Exit(1)


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None]]:
    """Show how many bytes are read, on the terminal of somebody who watches, once it takes long."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task, began = bar.add_task("", total=None), time.monotonic()

    def watch(done: int, size: int) -> None:
        bar.update(task, completed=done, total=size)
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield watch
    finally:
        bar.stop()
