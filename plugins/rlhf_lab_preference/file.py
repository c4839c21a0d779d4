"""Preference data from files, encoded by the environment and the same for every run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PreferenceData
from rlhf_lab.data.files import layout_of, read_rankings
from rlhf_lab.data.forms import FormName, Layout
from rlhf_lab.data.ranking import Ranking
from rlhf_lab.data.sources import find_files
from rlhf_lab.data.summary import Summary
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Actor, BuiltEnvironment, ReadingEnvironment

__all__ = ["PreferenceFile"]

CHUNK: Final = 4096  # rows that are encoded at once
_log: Final = logging.getLogger(__name__)


class PreferenceFile(PreferenceData):
    """Rows of JSON Lines or Parquet files: pairs, rankings, or single responses with a label.

    What a row may look like stands in ``rlhf_lab.data.forms``; ``rlhf-lab data FILE`` checks files and tells what is in
    them. Relative paths are relative to the working directory. All runs learn from the same rows; their order differs
    by run where the trainer deals minibatches.

    Gives ``ranks`` (0 = best, equal = tie) of pairs and rankings, ``desirable`` of labelled responses, ``margins``
    where there is a column ``margin``. Pairs that have ``score_chosen`` and ``score_rejected`` give them as ``targets``
    with ``use_scores``, instead of ranks: a batch says either which response is better or how good each one is. Rows
    with fewer responses than others are padded with ``valid`` False.

    With ``on_bad_row: skip``, rows that are wrong and rows that the environment cannot read are left out, and told in a
    warning of the logger ``rlhf_lab_preference.file``.
    """

    name = "preference_file"
    reference = "TRL, Dataset formats and types"
    provides: ClassVar[frozenset[str]] = frozenset({"desirable", "margins", "ranks", "targets"})

    path: str | tuple[str, ...] = Field(default="", description="file, pattern such as data/*.jsonl, or a list of them")
    form: FormName | None = Field(default=None, description="what the columns mean; default: recognised by their names")
    on_bad_row: Literal["stop", "skip"] = Field(default="stop", description="stop at the first bad row, or skip it")
    limit: int | None = Field(default=None, ge=1, description="use so many rows at most, the first ones")
    use_scores: bool = Field(default=False, description="give the scores of pairs instead of their order")

    def gives(self) -> frozenset[str]:
        """Return the labels that the columns of the first file give; nothing where no file is named."""
        return self._labels(layout_of(self.path, self.form)) if self.path else frozenset()

    def files(self) -> Sequence[Path]:
        """Return the files that are meant."""
        return find_files(self.path)

    def _labels(self, layout: Layout) -> frozenset[str]:
        margins = {"margins"} if "margin" in layout.columns else set()
        if self.use_scores and "score_chosen" not in layout.columns:
            raise LabError(
                f"data.use_scores: {layout.form.name} with the columns {', '.join(layout.columns)} have no scores; "
                "they stand in score_chosen and score_rejected"
            )
        if layout.form.name == "labels":
            return frozenset({"desirable"})
        return frozenset({"targets" if self.use_scores else "ranks", *margins})

    def build(self, environment: BuiltEnvironment, reference: Actor, streams: Streams) -> Candidates:
        """Return the rows, ``[runs, rows, k]``; the runs share one memory."""
        if not isinstance(environment, ReadingEnvironment):
            raise LabError(
                f"data {self.name!r}: {type(environment).__name__} cannot read responses in words; files need an "
                "environment that can, such as sequences"
            )
        given = self._labels(layout_of(self.path, self.form))
        summary, refused = Summary(), list[str]()
        rows = read_rankings(self.path, form=self.form, on_bad_row=self.on_bad_row, limit=self.limit, summary=summary)
        parts = [
            _labelled(kept, encoded, given)
            for chunk in _chunks(rows)
            for kept, encoded in self._encoded(chunk, environment, refused)
        ]
        self._tell(summary, refused)
        if not parts:
            raise LabError(f"data {self.name!r}: the environment can read none of {summary.used:,} rows: {refused[0]}")
        return _joined(parts).expand(streams.runs)

    def _encoded(
        self, chunk: Sequence[Ranking], environment: ReadingEnvironment, refused: list[str]
    ) -> Iterator[tuple[Sequence[Ranking], Candidates]]:
        """Yield the rows that the environment can read and what it makes of them; tell of those to be skipped."""
        try:
            yield chunk, environment.encode(chunk)
            return
        except LabError:
            if self.on_bad_row == "stop":
                raise
        kept = []
        for row in chunk:
            try:
                environment.encode([row])
                kept.append(row)
            except LabError as error:
                refused.append(str(error))
        if kept:
            yield kept, environment.encode(kept)

    def _tell(self, summary: Summary, refused: Sequence[str]) -> None:
        files = ", ".join(path for path, _, _ in summary.files)
        said = f"{files}: {summary.used - len(refused):,} of {summary.read:,} rows of the form {summary.form} are used"
        skipped = [f"{n:,} x {kind}, as {summary.examples[kind][0]}" for kind, n in summary.skipped.items()]
        if refused:
            skipped.append(f"{len(refused):,} that the environment cannot read, as {refused[0]}")
        if skipped:
            _say(logging.WARNING, f"{said}; skipped: {'; '.join(skipped)}")
        else:
            _say(logging.INFO, said)


@cache
def _say(level: int, message: str) -> None:
    """Log a message once, though every arm of a study reads the same file, and the rehearsal of each before it runs."""
    _log.log(level, message)


def _chunks(rows: Iterator[Ranking]) -> Iterator[list[Ranking]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _labelled(rows: Sequence[Ranking], encoded: Candidates, given: frozenset[str]) -> Candidates:
    """Return candidates with the labels of their rows; what the environment says of labels does not count."""
    k = encoded.lengths.shape[2]
    counts = torch.tensor([len(row.responses) for row in rows])
    labels: dict[str, Tensor] = {"valid": torch.arange(k) < counts[:, None]}
    if "ranks" in given:
        labels["ranks"] = _padded([row.ranks or range(len(row.responses)) for row in rows], k, torch.int64)
    if "desirable" in given:
        labels["desirable"] = _padded([row.labels or () for row in rows], k, torch.bool)
    if "targets" in given:
        labels["targets"] = _padded([row.scores or () for row in rows], k, torch.float64)
    if "margins" in given:
        labels["margins"] = torch.tensor([row.margin for row in rows], dtype=torch.float64)
    return Candidates(encoded.inputs, encoded.lengths, **{name: label[None] for name, label in labels.items()})


def _padded(rows: Sequence[Sequence[float]], k: int, dtype: torch.dtype) -> Tensor:
    """Return ``[rows, k]`` with zeros behind each row's numbers."""
    return torch.tensor([[*row, *[0] * (k - len(row))] for row in rows], dtype=dtype)


def _joined(parts: Sequence[Candidates]) -> Candidates:
    """Return the rows of all parts, ``[1, rows, ...]``; shorter ones are padded with zeros at their ends."""
    labels = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Candidates) if f.name != "inputs"}
    joined: dict[str, Any] = {name: _stacked(found) for name, found in labels.items() if found[0] is not None}
    if bool(joined["valid"].all()):
        del joined["valid"]
    return Candidates({name: _stacked([part.inputs[name] for part in parts]) for name in parts[0].inputs}, **joined)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(part.shape[2:] for part in parts), strict=True)]
    whole = parts[0].new_zeros(1, sum(part.shape[1] for part in parts), *shape)
    begin = 0
    for part in parts:
        rows = slice(begin, begin + part.shape[1])
        whole[(slice(None), rows, *(slice(size) for size in part.shape[2:]))] = part
        begin = rows.stop
    return whole
