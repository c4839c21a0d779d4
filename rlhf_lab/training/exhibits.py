"""What one would rather look at than read: a picture with a table beside it, of which an environment shows a few.

Free of torch, so that a report can be rebuilt quickly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf, nan
from typing import Any

from rlhf_lab.errors import LabError
from rlhf_lab.pictures import check_svg

__all__ = ["Cell", "Exhibit"]

Cell = str | float
"""A number (NaN: none) or a few words."""


@dataclass(frozen=True)
class Exhibit:
    """A picture and the numbers that belong to it: one ``<svg>`` element with a ``viewBox``, or nothing, and a table.

    The picture stands on white, on dark and on narrow pages: it brings its colours, or uses ``currentColor``.

    Raises ``LabError`` for a picture that is no SVG, runs anything or reaches outside of itself, for a row with more or
    fewer cells than there are columns, and for an infinite number.
    """

    title: str
    caption: str = ""
    picture: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(self._cell(x) for x in row) for row in self.rows))
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                found = f"row {number} has {len(row)} cells for {len(self.columns)} columns"
                raise LabError(f"exhibit {self.title!r}: {found}")
        if self.picture:
            try:
                check_svg(self.picture)
            except LabError as error:
                raise LabError(f"exhibit {self.title!r}: {error}") from None

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Exhibit:
        """Return the exhibit of JSON data, in which null is NaN."""
        rows = [[nan if cell is None else cell for cell in row] for row in data["rows"]]
        return cls(data["title"], data["caption"], data["picture"], data["columns"], rows)

    def _cell(self, x: Cell) -> Cell:
        if isinstance(x, str):
            return x
        if isinf(x):
            raise LabError(f"exhibit {self.title!r}: a cell is infinite; give words for it")
        return float(x)
