"""Reading preference data from files: streamed, checked row by row, with everything counted that was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf_lab.data.errors import BadDataError, BadRowError
from rlhf_lab.data.forms import Layout, recognise
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.data.rows import Row
from rlhf_lab.data.sources import Source, find_files, open_source
from rlhf_lab.data.summary import Summary
from rlhf_lab.errors import LabError

__all__ = ["Paths", "Watch", "layout_of", "read_rankings"]

Paths = str | Path | Sequence[str | Path]
Watch = Callable[[int, int], None]  # bytes read, bytes in all


def read_rankings(
    paths: Paths,
    *,
    form: str | None = None,
    on_bad_row: Literal["stop", "skip"] = "stop",
    limit: int | None = None,
    summary: Summary | None = None,
    watch: Watch | None = None,
) -> Iterator[Ranking]:
    """Yield the rows of files of preference data as rankings, one at a time; ``summary`` is filled while they are read.

    ``paths`` are names and patterns of JSON Lines (plain or packed by gzip) and Parquet files, relative to the working
    directory; all have one form (see ``rlhf_lab.data.forms``), recognised by the columns of the first row unless
    ``form`` names it. ``limit`` stops when so many rows are used.

    Raises ``BadRowError`` at the first row that cannot be used, unless it is to be skipped; ``BadDataError`` in the end
    where no row is left or all labels are of one class; other ``LabError`` for what cannot be read.
    """
    reading = _Reading(Summary() if summary is None else summary, form, on_bad_row == "skip")
    reading.summary.limit = limit
    return reading.rankings(find_files(paths), watch)


def layout_of(paths: Paths, form: str | None = None) -> Layout:
    """Return form and columns of files, from the schema or the first row that can be read of the first one."""
    source = open_source(find_files(paths)[0], Summary().notes)
    if source.columns is not None:
        return recognise(source.columns, form, str(source.path))
    wrong: LabError = _empty(source)
    for number, row in source.rows(lambda done: None):
        if not isinstance(row, BadRowError):
            return recognise(row, form, source.place(number))
        wrong = row
        row.place = source.place(number)
    raise wrong


@dataclass
class _Reading:
    """Files being read; the layout is known from the first row on."""

    summary: Summary
    form: str | None
    skip: bool
    layout: Layout | None = None

    def rankings(self, files: Sequence[Path], watch: Watch | None) -> Iterator[Ranking]:
        summary = self.summary
        size, done = sum(path.stat().st_size for path in files), 0
        for path in files:
            source = open_source(path, summary.notes)
            summary.begin(source)
            if source.columns is not None:
                self._recognise(source.columns, str(path))
            before = summary.read
            for number, row in source.rows(_watched(watch, done, size)):
                ranking = self._take(row, source.place(number))
                if ranking is None:
                    continue
                summary.add(ranking)
                yield ranking
                if summary.used == summary.limit:
                    return self._finish()
            if summary.read == before:
                raise _empty(source)
            done += source.size
        self._finish()

    def _take(self, row: Row | BadRowError, place: str) -> Ranking | None:
        """Return the row as a ranking, or None where it is skipped."""
        self.summary.read += 1
        try:
            if isinstance(row, BadRowError):
                raise row
            layout = self.layout or self._recognise(row, place)
            if len(row) != len(layout.columns):
                self.summary.see(row)
            return layout.read(row, place, self.summary.notes)
        except BadRowError as error:
            error.place = place
            if not self.skip:
                raise
            self.summary.skip(error)
            return None

    def _recognise(self, columns: Sequence[str] | Row, place: str) -> Layout:
        found = recognise(columns, self.form, place)
        if self.layout is not None and found != self.layout:
            raise LabError(
                f"{place} has the columns of {found.form.name} ({', '.join(found.columns)}), the files before it those "
                f"of {self.layout.form.name} ({', '.join(self.layout.columns)}); read them one by one"
            )
        self.layout = found
        self.summary.recognised(found)
        self.summary.see(columns)
        return found

    def _finish(self) -> None:
        if problem := self.summary.problem():
            raise BadDataError(problem)


def _watched(watch: Watch | None, done: int, size: int) -> Callable[[int], None]:
    """Return a watch over one file: ``done`` bytes of all ``size`` came before it."""
    return (lambda n: None) if watch is None else (lambda n: watch(done + n, size))


def _empty(source: Source) -> LabError:
    return LabError(f"{source.path} is empty: there is no row in {source.size:,} bytes")
