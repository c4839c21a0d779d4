"""How numbers, intervals and parameters are written, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any, Final

from rlhf_lab.study.bootstrap import Interval

__all__ = ["interval", "number", "numbers", "parameter", "plural", "short", "value", "words"]

_INITIALS: Final = frozenset({"auc", "kl", "mse", "rms", "rmse"})


def number(x: float, digits: int = 4) -> str:
    """Write a number of a table with ``digits`` significant digits, ending zeros kept; ``—`` for NaN."""
    if isnan(x):
        return "—"
    if not isfinite(x):
        return "∞" if x > 0 else "-∞"
    if float(x).is_integer() and abs(x) < 1e6:
        return f"{x:.0f}"
    if 1e-3 <= abs(x) < 1e6:
        rounded = f"{x:#.{digits}g}"
        return (f"{float(rounded):.0f}" if "e" in rounded else rounded).rstrip(".")
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short(x: float, digits: int = 4) -> str:
    """Write a number inside a sentence or on an axis: as ``number``, without ending zeros."""
    mantissa, e, exponent = number(x, digits).partition("e")
    return (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa) + e + exponent


def interval(x: Interval) -> str:
    """Write the two ends, or say that there is no interval."""
    return "no interval" if isnan(x.low) else f"[{number(x.low)}, {number(x.high)}]"


def numbers(count: int | None) -> str:
    """Write a number of seeds: ``—`` where none would do, and no false precision above ten thousand."""
    return "—" if count is None else f"{count:,}" if count <= 10_000 else "> 10,000"


def plural(count: int, noun: str) -> str:
    """Write ``1 seed`` or ``2 seeds``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def words(name: str) -> str:
    """Write a metric's name for readers: ``value_error`` reads ``value error``, ``mse`` reads ``MSE``."""
    return " ".join(part.upper() if part in _INITIALS else part for part in name.split("_"))


def value(x: Any) -> str:
    """Write a parameter's value; a component reads ``gae(lam=0.9)``."""
    if isinstance(x, Mapping):
        inside = ", ".join(f"{key}={value(inner)}" for key, inner in x.items() if key != "name")
        return f"{x['name']}({inside})" if "name" in x and inside else str(x.get("name", f"{{{inside}}}"))
    if isinstance(x, bool) or x is None:
        return str(x).lower() if x is not None else "none"
    if isinstance(x, float):
        return short(x, 6)
    if isinstance(x, list | tuple):
        return "[" + ", ".join(value(inner) for inner in x) + "]"
    return str(x)


def parameter(path: str) -> str:
    """Write a dotted path by its last part: ``advantage.lam`` reads ``lam``; ``advantage.name`` reads ``advantage``."""
    parts = path.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]
