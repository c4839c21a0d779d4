"""Parquet: rows from record batches of a few megabytes, whatever the size of the row groups.

Needs pyarrow, the extra ``data``. Nothing is ever unpickled: only columns of text, numbers and lists of them are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rlhf_lab.data.forms import COLUMNS
from rlhf_lab.data.rows import Row
from rlhf_lab.errors import LabError, MissingExtraError

__all__ = ["Parquet"]

_BATCH: Final = 4 * 2**20  # bytes of a batch, unpacked
_MOST: Final = 4096  # rows of a batch
_BUFFER: Final = 2**20  # bytes that are read at once of each column, so that no column of a row group is held whole


class Parquet:
    """A file of rows as Parquet, whose columns stand in its schema."""

    kind = "Parquet"

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError(
                f"{path} is a Parquet file, and pyarrow, which reads those, is not installed; "
                "pip install 'rlhf-lab[data]'"
            ) from None
        self.path, self._name = path, str(path)
        self.size = path.stat().st_size
        self._errors: Any = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
        try:
            self._file: Any = parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
            self.columns: list[str] = list(self._file.schema_arrow.names)
        except self._errors as error:
            raise LabError(f"cannot read {path}: {error}") from None
        if twice := sorted({name for name in self.columns if self.columns.count(name) > 1}):
            raise LabError(f"{path}: the column {twice[0]!r} stands twice; keep one")

    def place(self, number: int) -> str:
        """Return where a row stands."""
        return f"{self._name}, row {number}"

    def rows(self, watch: Callable[[int], None]) -> Iterator[tuple[int, Row]]:
        """Yield number of the row, from 1, and row; ``watch`` is told about how many bytes of the file are read."""
        columns = [name for name in self.columns if name in COLUMNS]
        table = self._file.metadata
        unpacked = sum(table.row_group(i).total_byte_size for i in range(table.num_row_groups))
        size = max(1, min(_MOST, _BATCH * table.num_rows // max(1, unpacked)))
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=size, columns=columns, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
                watch(self.size * number // table.num_rows)
        except self._errors as error:
            raise LabError(f"cannot read {self.path} behind row {number}: {error}") from None
