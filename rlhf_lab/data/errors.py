"""What is wrong with preference data, told so that it can be found and mended."""

from __future__ import annotations

import re
from typing import Any, Final

from rlhf_lab.errors import LabError

__all__ = ["BadDataError", "BadRowError", "shown"]

_LONGEST: Final = 60


class BadDataError(LabError):
    """A file can be read, but what stands in it cannot be used as it is."""


class BadRowError(BadDataError):
    """One row cannot be used: its place (file and line), its field, what is wrong, what was found, what is due."""

    def __init__(self, field: str, reason: str, *, found: str = "", due: str = "") -> None:
        super().__init__(field, reason)
        self.field, self.reason, self.found, self.due = field, reason, found, due
        self.place = ""

    @property
    def kind(self) -> str:
        """Field and reason without what differs from row to row, to count by."""
        return self._said(re.sub(r"\d+", "", self.field))

    def _said(self, field: str) -> str:
        return f"{field}: {self.reason}" if field else self.reason

    def __str__(self) -> str:
        found = f", found {self.found}" if self.found else ""
        place = f"{self.place}: " if self.place else ""
        return f"{place}{self._said(self.field)}{found}" + (f"; {self.due}" if self.due else "")


def shown(value: Any) -> str:
    """Return a value as it would be written, shortened."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
