"""What was read: counted row by row in bounded memory, and told to people and programs.

Requirements this file meets:
- nothing is kept of a row but 16 bytes, two hashes, by which rows that say the same are counted in the end;
- lengths are counted by value. Files of n bytes have at most √(2n) different ones: 140,000 in ten gigabytes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.data.ranking import Ranking, length

if TYPE_CHECKING:
    from rich.table import Table

    from rlhf_lab.data.forms import Layout
    from rlhf_lab.data.sources import Source

__all__ = ["Summary"]

MOST: Final = 1000  # columns that are remembered, where every row may have its own
FEW: Final = 3  # examples that are kept of each reason to skip a row


@dataclass
class Summary:
    """What was read, row by row: ``read`` = ``used`` + all ``skipped``.

    ``duplicates`` are rows that repeat an earlier one, verdict and all; ``disagreeing`` ones compare the same responses
    to the same prompt as an earlier row, with another verdict. Both are used like any other row.
    """

    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # by what was wrong
    examples: dict[str, list[str]] = field(default_factory=dict)  # the first few of each
    notes: Counter[str] = field(default_factory=Counter)  # what was read in another way than it was written
    files: list[tuple[str, str, int]] = field(default_factory=list)  # path, kind, bytes
    form: str = ""
    columns: tuple[str, ...] = ()
    seen: set[str] = field(default_factory=set)  # columns, read or not
    limit: int | None = None  # reading stopped when so many rows were used
    prompts: Counter[int] = field(default_factory=Counter)  # how many have how many characters
    responses: Counter[int] = field(default_factory=Counter)
    candidates: Counter[int] = field(default_factory=Counter)  # how many rows have how many responses
    ties: int = 0  # rows with a tie
    labels: Counter[bool] = field(default_factory=Counter)
    _compared: array[int] = field(default_factory=lambda: array("q"))
    _said: array[int] = field(default_factory=lambda: array("q"))

    def begin(self, source: Source) -> None:
        """Count a file."""
        self.files.append((str(source.path), source.kind, source.size))

    def recognised(self, layout: Layout) -> None:
        """Tell which form the data has."""
        self.form, self.columns = layout.form.name, layout.columns

    def see(self, columns: Iterable[str]) -> None:
        """Tell which columns there are."""
        if len(self.seen) < MOST:
            self.seen.update(columns)

    @property
    def unread(self) -> list[str]:
        """Columns that the form does not have."""
        return sorted(self.seen.difference(self.columns))

    def skip(self, error: BadRowError) -> None:
        """Count a row that is not used."""
        self.skipped[error.kind] += 1
        examples = self.examples.setdefault(error.kind, [])
        if len(examples) < FEW:
            examples.append(str(error))

    def add(self, ranking: Ranking) -> None:
        """Count a row that is used."""
        self.used += 1
        responses = ranking.responses
        self.prompts[length(ranking.prompt)] += 1
        for response in responses:
            self.responses[length(response)] += 1
        self.candidates[len(responses)] += 1
        if ranking.ranks is not None:
            self.ties += 1
        if ranking.labels is not None:
            self.labels.update(ranking.labels)
        self._compared.append(hash((ranking.prompt, frozenset(responses))))
        self._said.append(hash((ranking.prompt, responses, ranking.ranks, ranking.labels)))

    @property
    def duplicates(self) -> int:
        """How many rows repeat an earlier one."""
        return self.used - _different(self._said)

    @property
    def disagreeing(self) -> int:
        """How many rows judge otherwise what an earlier one judges."""
        return _different(self._said) - _different(self._compared)

    def problem(self) -> str:
        """Return why what was read cannot be used as a whole, or nothing."""
        limited = f" among the first {self.limit:,} rows" if self.limit is not None else ""
        if not self.used:
            return f"no row can be used: all {self.read:,} were skipped"
        if len(self.labels) == 1:
            only = "true" if True in self.labels else "false"
            return f"label: all {self.used:,} are {only}{limited}; labels of one class tell nothing apart"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return the summary for JSON."""
        return {
            "files": [dict(zip(("path", "kind", "bytes"), each, strict=True)) for each in self.files],
            "form": self.form,
            "columns": list(self.columns),
            "columns_not_read": self.unread,
            "rows": {"read": self.read, "used": self.used, "skipped": self.skipped.total()},
            "skipped": [{"reason": kind, "rows": n, "first": self.examples[kind]} for kind, n in self._reasons()],
            "notes": dict(self.notes),
            "limit": self.limit,
            "prompt_characters": _lengths(self.prompts),
            "response_characters": _lengths(self.responses),
            "candidates": {str(k): n for k, n in sorted(self.candidates.items())},
            "ties": self.ties,
            "duplicates": self.duplicates,
            "disagreeing": self.disagreeing,
            "labels": {"true": self.labels[True], "false": self.labels[False]} if self.labels else None,
            "problem": self.problem() or None,
        }

    def table(self) -> Table:
        """Return the summary for people."""
        from rich.table import Table
        from rich.text import Text

        table = Table("", "", show_header=False, box=None, padding=(0, 2, 0, 0))
        for name, value in self._lines():
            table.add_row(Text(name, style="bold"), Text(value))
        return table

    def _reasons(self) -> list[tuple[str, int]]:
        return self.skipped.most_common()

    def _lines(self) -> Iterator[tuple[str, str]]:
        for i, (path, kind, size) in enumerate(self.files):
            yield "" if i else "files", f"{path} ({kind}, {size:,} bytes)"
        yield "form", f"{self.form}: {', '.join(self.columns)}"
        if self.form == "rankings":
            yield "", "ranking: the rank of each response, 1 = best, equal = tie"
        if self.unread:
            yield "not read", ", ".join(self.unread)
        yield "rows", f"{self.read:,} read, {self.used:,} used, {self.skipped.total():,} skipped"
        if self.limit is not None and self.used == self.limit:
            yield "", f"reading stopped at the limit of {self.limit:,}"
        for kind, n in self._reasons():
            yield "skipped", f"{n:,} x {kind}"
            yield from (("", f"    {example}") for example in self.examples[kind])
        for note, n in self.notes.items():
            yield "note", f"{n:,} x {note}"
        if not self.used:
            return
        for name, counts in (("prompt", self.prompts), ("response", self.responses)):
            found = _lengths(counts)
            yield name, f"median {found['median']:,g} characters, longest {found['longest']:,}"
        yield "candidates", ", ".join(f"{n:,} rows with {k}" for k, n in sorted(self.candidates.items()))
        yield "ties", f"{self.ties:,} rows"
        yield "duplicates", f"{self.duplicates:,} rows repeat another, {self.disagreeing:,} judge the same otherwise"
        if self.labels:
            yield "labels", f"{self.labels[True]:,} true, {self.labels[False]:,} false"


def _different(hashes: array[int]) -> int:
    """Return how many different hashes there are; two of a million rows share one by chance once in 4e7 files."""
    import numpy as np

    if not hashes:
        return 0
    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
    return 1 + int((ordered[1:] != ordered[:-1]).sum())


def _lengths(counts: Counter[int]) -> dict[str, float]:
    """Return median and longest of lengths that are counted by value."""
    if not counts:
        return {}
    total, seen = counts.total(), 0
    middle: list[int] = []
    for value, n in sorted(counts.items()):
        seen += n
        if not middle and 2 * seen >= total:
            middle.append(value)
        if 2 * seen > total:
            middle.append(value)
            break
    return {"median": (middle[0] + middle[-1]) / 2, "longest": max(counts)}
