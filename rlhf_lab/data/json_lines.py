"""JSON Lines: one row a line, UTF-8, plain or packed by gzip.

Requirements this file meets:
- one line is in memory at a time, and none longer than ``LONGEST``;
- a line that is no row is told with what is wrong in it, and the next one is read;
- white space between rows is skipped and counted, a byte-order mark and CR LF are read and told.

NaN and Infinity are read as Python's ``json`` reads them: where they stand in a column that counts, they are refused
there. Raises ``LabError`` for what is no JSON Lines at all.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from rlhf_lab.data.errors import BadRowError
from rlhf_lab.data.rows import Notes, Row
from rlhf_lab.errors import LabError

__all__ = ["LONGEST", "JsonLines"]

LONGEST: Final = 16 * 2**20  # bytes of a line: millions of tokens, and little memory
Stream = BufferedReader | gzip.GzipFile
_BOM: Final = b"\xef\xbb\xbf"
_PACKED: Final = b"\x1f\x8b"
_EVERY: Final = 512  # rows between two signs of progress


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise BadRowError("", "a key stands twice", found=repr(twice), due="keep one")
    return found


_decode: Final = json.JSONDecoder(object_pairs_hook=_without_doubles).decode


class JsonLines:
    """A file of rows as JSON, a line each."""

    kind = "JSON Lines"
    columns = None  # each row says its own

    def __init__(self, path: Path, notes: Notes) -> None:
        self.path, self._name = path, str(path)
        self.size = path.stat().st_size
        self._notes = notes

    def place(self, number: int) -> str:
        """Return where a row stands."""
        return f"{self._name}:{number}"

    def rows(self, watch: Callable[[int], None]) -> Iterator[tuple[int, Row | BadRowError]]:
        """Yield number of the line and row; ``watch`` is told how many bytes of the file are read."""
        number = 0
        try:
            with self.path.open("rb") as file:
                stream = gzip.GzipFile(fileobj=file) if file.peek(2)[:2] == _PACKED else file
                self._check_beginning(stream)
                while line := stream.readline(LONGEST):
                    number += 1
                    if number % _EVERY == 0:
                        watch(file.tell())
                    if len(line) == LONGEST and not line.endswith(b"\n"):
                        yield number, _too_long(stream)
                    elif line.isspace():
                        self._notes["blank lines"] += 1
                    else:
                        yield number, _row(line)
        except (OSError, EOFError, zlib.error) as error:
            behind = f" behind line {number}" if number else ""
            raise LabError(f"cannot read {self.path}{behind}: {error}") from None

    def _beside(self) -> Path:
        """Return the name of a file to convert to: another one, since a shell empties what it writes to first."""
        return self.path.with_name(f"{self.path.stem}-converted.jsonl")

    def _check_beginning(self, stream: Stream) -> None:
        """Refuse what is no JSON Lines, and step over a byte-order mark."""
        head = bytes(stream.peek(4096)[:4096])
        if head.startswith(_BOM):
            self._notes[f"{self.path} begins with a byte-order mark"] += 1
            stream.read(len(_BOM))
            head = head[len(_BOM) :]
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or 4 * head.count(0) > len(head):  # of ASCII, half are 0
            raise LabError(
                f"{self.path} is UTF-16, and must be UTF-8. Convert it: "
                f"iconv -f UTF-16 -t UTF-8 {self.path} > {self._beside()}"
            )
        if b"\0" in head:
            raise LabError(f"{self.path} is no text: it has bytes 0. It must be JSON Lines or Parquet")
        if head.lstrip().startswith(b"["):
            raise LabError(
                f"{self.path} is a JSON array, and must have one row a line. Convert it: "
                f"jq -c '.[]' {self.path} > {self._beside()}"
            )
        if b"\r\n" in head:
            self._notes[f"{self.path} has lines that end in CR LF"] += 1


def _too_long(stream: Stream) -> BadRowError:
    """Step over the rest of the line."""
    while (rest := stream.readline(LONGEST)) and not rest.endswith(b"\n"):
        pass
    return BadRowError("", f"the line is longer than {LONGEST // 2**20} MiB", due="write one row a line")


def _row(line: bytes) -> Row | BadRowError:
    try:
        row = _decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRowError(
            "",
            "the line is no UTF-8",
            found=f"{line[error.start : error.start + 1]!r} at byte {error.start + 1}",
            due="convert the file, as by: iconv -f LATIN1 -t UTF-8",
        )
    except json.JSONDecodeError as error:
        if not line.endswith(b"\n"):
            return BadRowError("", "the last line is cut short", due="the file is not whole; get it once more")
        column = 1 + len(error.doc.rstrip()[: error.pos])
        found = f"{error.msg.removesuffix(' at')} at column {column}"
        return BadRowError("", "the line is no JSON", found=found, due="write one row a line")
    except BadRowError as error:
        return error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or thousands of brackets
        return BadRowError("", "the line is no JSON that can be read", found=str(error))
    if not isinstance(row, dict):
        return BadRowError("", "the line is no JSON object", due='write {"prompt": ..., ...}')
    if b"\\u" in line and (half := _half_pair(row)):
        return BadRowError("", "the line has half a surrogate pair, which is no character", found=half)
    return row


def _half_pair(row: Row) -> str:
    """Return the escape of a surrogate that stands alone, which no file in UTF-8 can hold, or nothing."""
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return ""
