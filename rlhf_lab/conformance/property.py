"""A property: one sentence about the math of a component, and a check that finds where it does not hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from rlhf_lab.components import Component
    from rlhf_lab.conformance.subject import Subject

__all__ = [
    "TOLERANCE",
    "Check",
    "Property",
    "Violation",
    "about",
    "always",
    "expect_equal",
    "expect_true",
    "show_number",
]

Check = Callable[["Subject", Any], None]
TOLERANCE: Final = 1e-9  # relative to the largest number compared; float64 rounding stays below 1e-12 on our cases


def always(component: Component) -> str | None:
    """Return None: the property applies to every component of its role."""
    return None


def about(*names: str) -> Callable[[Component], str | None]:
    """Return what makes a property apply to components that have all of these parameters or required fields."""

    def applies(component: Component) -> str | None:
        known = {*type(component).model_fields, *component.conventions, *component.needs()}
        missing = [name for name in names if name not in known]
        return f"it has no {missing[0]}" if missing else None

    return applies


@dataclass(frozen=True)
class Property:
    """One sentence about the math of a component of one role, and how to find where it does not hold.

    ``check(subject, case)`` raises ``Violation`` (or ``AssertionError``) where the sentence is false; ``subject`` is
    the component under test and is called like it. ``cases`` is a Hypothesis strategy, or what makes one from a
    component; None are the role's own cases, which all its laws share. A property with ``claim`` is checked only of
    components that list its id among their ``claims``, the others are laws of the role.

    ``applies`` says why the property makes no sense for a component, or None; whoever claims it is checked all the
    same. With ``whole``, ``check`` sees the list of all cases at once: for sentences of the form "there is a case".
    ``measure(subject)`` is told of a component that does not claim the property; ``share`` is the part of the examples
    that is used, for costly checks. ``reads`` names the optional fields that the check itself needs.
    """

    id: str
    role: str
    statement: str
    reference: str
    claim: bool
    check: Check
    cases: SearchStrategy[Any] | Callable[[Component], SearchStrategy[Any]] | None = None
    applies: Callable[[Component], str | None] = always
    whole: bool = False
    measure: Callable[[Subject], str] | None = None
    share: float = 1.0
    reads: frozenset[str] = frozenset()


class Violation(Exception):  # noqa: N818
    """A property does not hold: what the component gave, and what is due."""

    def __init__(self, got: str, expected: str) -> None:
        super().__init__(f"got {got}, expected {expected}")
        self.got = got
        self.expected = expected


def expect_true(holds: bool, got: str, expected: str) -> None:
    """Raise ``Violation`` unless something holds."""
    if not holds:
        raise Violation(got, expected)


def expect_equal(
    got: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    where: Tensor | None = None,
    *,
    note: str = "",
    tolerance: float = TOLERANCE,
) -> None:
    """Raise ``Violation`` at the first number that differs; ``where`` says which count, ``note`` qualifies what is due.

    Both map a symbol to a tensor; symbols that are not ``expected`` are not compared. Differences up to ``tolerance``
    times the largest number of the tensor (at least 1) are rounding. Where ``where`` tells of each of a row's
    candidates, one number for the whole row counts where any of them does, and the numbers of its tokens as it does.
    """
    for symbol, due in expected.items():
        if symbol not in got:
            raise Violation(f"no {symbol}", f"{symbol}{_of(note)}")
        found = got[symbol].to(torch.float64)
        due = due.to(torch.float64)
        if found.shape != due.shape:
            raise Violation(f"{symbol} of shape {list(found.shape)}", f"shape {list(due.shape)}{_of(note)}")
        counted = where
        if where is not None and found.ndim != where.ndim:
            counted = where.any(-1) if found.ndim < where.ndim else where[..., None]
        apart = found - due if counted is None else (found - due).masked_fill(~counted, 0)
        if apart.numel() == 0 or float(apart.abs().max()) <= tolerance:
            continue  # which is so nearly always, and takes a third of the time of what follows
        counts = torch.ones_like(found, dtype=torch.bool) if counted is None else counted.expand(found.shape)
        finite = due[counts & due.isfinite()]
        scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
        same = (found == due) | ((found - due).abs() <= tolerance * scale) | (found.isnan() & due.isnan())
        off = counts & ~same
        if bool(off.any()):
            at = [int(i) for i in off.nonzero()[0]]
            name = f"{symbol}{_index(at, found.shape)}"
            a, b = float(found[tuple(at)]), float(due[tuple(at)])
            digits = 4 if abs(a - b) > 1e-3 * max(abs(a), abs(b)) else 12
            raise Violation(f"{name} = {show_number(a, digits)}", f"{name} = {show_number(b, digits)}{_of(note)}")


def show_number(x: float, digits: int = 4) -> str:
    """Return a number with at most so many significant digits."""
    return f"{x + 0.0:.{digits}g}" if math.isfinite(x) else str(x)


def _of(note: str) -> str:
    return f" {note}" if note else ""


def _index(at: list[int], shape: torch.Size) -> str:
    """Return ``[row,step]``, without the row where there is only one."""
    if len(at) > 1 and all(n == 1 for n in shape[:-1]):
        at = at[-1:]
    return f"[{','.join(map(str, at))}]" if at else ""
