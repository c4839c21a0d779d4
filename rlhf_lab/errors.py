"""Errors for people: what was asked, what was found, what is possible, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["LabError", "MissingExtraError", "complaint", "describe", "did_you_mean", "located"]


class LabError(Exception):
    """Something a user can mend. The command line prints its message and exits with 2, without a traceback."""


class MissingExtraError(LabError):
    """A plugin module's optional dependency is not installed, which is nothing to complain of at every command."""


_MOST_NAMES: Final = 60  # that a reader would look through
_NEAREST: Final = 12
_MOST_LINES: Final = 5  # that a reader would mend before looking again
_BRANCH: Final = re.compile(r"(constrained-)?(int|float|str|bool)|(tuple|list|dict|literal|function-\w+)\[.*\]|\[key\]")
_MOST_HINTS: Final = 4


def did_you_mean(asked: str, possible: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? Possible: a, b, x.`` for a name that was not found; of very many the nearest ones."""
    names = sorted(set(possible))
    if not names:
        return "None is available."
    qualified = [name for name in names if asked in name.split("_")]  # where several papers share a name
    close = qualified[:_MOST_HINTS] or difflib.get_close_matches(asked, names, n=1, cutoff=0.6)
    hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    if len(names) > _MOST_NAMES:
        nearest = difflib.get_close_matches(asked, names, n=_NEAREST, cutoff=0.0)
        return f"{hint}Possible are {len(names)} names, the nearest: {', '.join(nearest)}."
    return f"{hint}Possible: {', '.join(names)}."


def complaint(item: Mapping[str, Any], fields: Iterable[str] = ()) -> str:
    """Return one of pydantic's errors in our words; ``fields`` are the names that the model has."""
    if item["type"] == "extra_forbidden":
        hint = f". {did_you_mean(str(item['loc'][0]), fields)}" if len(item["loc"]) == 1 else ""
        return f"is no parameter here{hint}"
    if item["type"] == "missing":
        return "is missing"
    if item["type"] in ("component", "value_error"):
        return str(item["msg"]).removeprefix("Value error, ")
    return f"{item['msg']}, found {item['input']!r}"


def describe(
    error: ValidationError,
    prefix: tuple[str, ...] = (),
    fields: Iterable[str] = (),
    where: Mapping[tuple[str, ...], str] | None = None,
) -> str:
    """Return one line per error: place in the file, dotted path, what is wrong, what was given, what is possible.

    Of several types that a value may have, the first one's complaint that reaches deepest counts; pydantic tells all.
    """
    found: dict[tuple[str, ...], str] = {}
    for item in error.errors(include_url=False):
        keys = tuple(key for key in map(str, item["loc"]) if not _BRANCH.fullmatch(key))
        found.setdefault(keys, complaint(item, fields))
    above = {keys[:n] for keys in found for n in range(1, len(keys))}
    lines = []
    for keys, wrong in found.items():
        if keys not in above:
            path = ".".join((*prefix, *keys))
            lines.append(located(f"{path}: {wrong}" if path else wrong, keys, where))
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    return "\n".join(lines[:_MOST_LINES] + more)


def located(message: str, keys: tuple[str, ...], where: Mapping[tuple[str, ...], str] | None) -> str:
    """Return the message with the place in the file of ``keys``, or of the nearest key above them, before it."""
    place = next((where[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in where), "") if where else ""
    return f"{place}: {message}" if place else message
