"""Which files are meant, and what each of them is; told from its first bytes, not from its name."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.data.json_lines import JsonLines
from rlhf_lab.data.parquet import Parquet
from rlhf_lab.data.rows import Notes, Row
from rlhf_lab.errors import LabError

__all__ = ["Source", "find_files", "open_source"]

_FOREIGN: Final = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "packed by bzip2; unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz; unpack it, or pack it by gzip",
    b"\x28\xb5\x2f\xfd": "packed by zstd; unpack it, or pack it by gzip",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"\x80": "a pickle, which could run any code; write it as JSON Lines or Parquet",
}
_PARQUET: Final = b"PAR1"


class Source(Protocol):
    """A file of rows."""

    path: Path
    size: int  # bytes

    @property
    def kind(self) -> str: ...
    @property
    def columns(self) -> Sequence[str] | None:
        """The columns of all rows; None where each row says its own."""
        ...

    def place(self, number: int) -> str:
        """Return where a row stands."""
        ...

    def rows(self, watch: Callable[[int], None]) -> Iterator[tuple[int, Row | BadRowError]]:
        """Yield number and row, or what is wrong with it; ``watch`` is told how many bytes of the file are read."""
        ...


def find_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by names and patterns (``*``, ``?``, ``**``), those of a pattern by name.

    Relative names are relative to the working directory. Raises ``LabError`` where a name or pattern stands for
    nothing, for a directory, and where a file is named twice.
    """
    asked = [paths] if isinstance(paths, str | Path) else list(paths)
    if not asked or not all(map(str, asked)):
        raise LabError("no file of preference data is named; give a path, a pattern such as data/*.jsonl, or a list")
    found: list[Path] = []
    for each in asked:
        try:
            found += _files(str(each))
        except (OSError, ValueError) as error:  # such as a name that is too long
            raise LabError(f"cannot read {str(each)!r}: {error}") from None
    twice = next((path for i, path in enumerate(found) if path in found[:i]), None)
    if twice is not None:
        raise LabError(f"{twice} is named twice; its rows would count twice")
    return found


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        raise LabError(f"{path} is a directory; name the files in it, as by {path / '*.jsonl'}")
    if path.exists() and not path.is_file():
        raise LabError(f"{path} is a pipe or a device; write the rows to a file")
    if path.exists():
        return [path]
    matches = glob.glob(name, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
    files = sorted(match for match in map(Path, matches) if match.is_file())
    if not files:
        what = "no file matches" if glob.has_magic(name) else "there is no file"
        raise LabError(f"{what} {name!r} in {Path.cwd()}")
    return files


def open_source(path: Path, notes: Notes) -> Source:
    """Return the file as what it is; raises ``LabError`` for what is neither JSON Lines nor Parquet."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise LabError(f"cannot read {path}: {error}") from None
    if head.startswith(_PARQUET):
        return Parquet(path)
    if path.suffix == ".parquet":
        raise LabError(f"{path} is no Parquet file: it does not begin with {_PARQUET.decode()}")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise LabError(f"{path} is {what}")
    return JsonLines(path, notes)
