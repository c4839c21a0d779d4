"""How large a counterexample is: what a person has to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["steps_and_digits"]


def steps_and_digits(inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many steps the longest field has, and the most significant digits of a number in any."""
    fields = [list(_numbers(values)) for values in inputs.values()]
    return max(map(len, fields)), max((_significant(x) for each in fields for x in each), default=0)


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers of nested lists; None is a step that does not count."""
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value


def _significant(x: float) -> int:
    """Return the number of significant digits: 3 for 0.125 and for -1.75, 1 for 400."""
    return len(f"{abs(float(x)):.15g}".replace(".", "").strip("0"))
