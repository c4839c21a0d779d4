"""How numbers, intervals and parameters are written, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any

from rlhf_lab.study.statistics import Interval

__all__ = ["interval", "number", "numbers", "parameter", "plural", "value"]


def number(x: float, digits: int = 4) -> str:
    """Write a number with ``digits`` significant digits; ``—`` for NaN."""
    if isnan(x):
        return "—"
    if not isfinite(x):
        return "∞" if x > 0 else "-∞"
    if x == 0:
        return "0"
    if float(x).is_integer() and abs(x) < 1e6:
        return f"{x:.0f}"
    if not 1e-3 <= abs(x) < 1e6:
        return f"{x:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    text = f"{x:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def interval(x: Interval) -> str:
    """Write the two ends, or say that there is no interval."""
    return "no interval" if isnan(x.low) else f"[{number(x.low)}, {number(x.high)}]"


def numbers(count: int | None) -> str:
    """Write a number of seeds; ``—`` where there is none."""
    return "—" if count is None else f"{count:,}"


def plural(count: int, noun: str) -> str:
    """Write ``1 seed`` or ``2 seeds``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def value(x: Any) -> str:
    """Write a parameter's value; a component reads ``gae(lam=0.9)``."""
    if isinstance(x, Mapping):
        inside = ", ".join(f"{key}={value(inner)}" for key, inner in x.items() if key != "name")
        return f"{x['name']}({inner})" if "name" in x and inside else str(x.get("name", f"{{{inside}}}"))
    if isinstance(x, bool) or x is None:
        return str(x).lower() if x is not None else "none"
    if isinstance(x, float):
        return number(x, 6)
    if isinstance(x, list | tuple):
        return "[" + ", ".join(value(inner) for inner in x) + "]"
    return str(x)


def parameter(path: str) -> str:
    """Write a dotted path by its last part: ``advantage.lam`` reads ``lam``; ``advantage.name`` reads ``advantage``."""
    parts = path.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]
