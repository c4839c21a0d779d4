"""Laws about what may influence an answer: rows, steps and runs that are independent do not mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import map_fields, take_rows, tensors
from rlhf_lab.conformance.properties.shared import CONTRACT, ROWS, STEPWISE, Law, plain, rows
from rlhf_lab.conformance.property import Property, Violation, expect_equal
from rlhf_lab.conformance.subject import Subject, UnansweredError

__all__ = ["LAWS"]


def _rows_independent(subject: Subject, case: Any) -> None:
    whole = plain(subject(case))
    for row in sorted({0, rows(case) - 1}):
        alone = subject(take_rows(case, [row]))
        counted = case.valid[[row]] if hasattr(case, "valid") else None
        part = {symbol: x[[row]] for symbol, x in whole.items()}
        expect_equal(part, plain(alone), counted, note=f"as row {row} gets alone")


def _rows_permute(subject: Subject, case: Any) -> None:
    whole, count = plain(subject(case)), rows(case)
    for order in ([*range(count)][::-1], [*range(1, count), 0]):
        moved = subject(take_rows(case, order))
        counted = case.valid[order] if hasattr(case, "valid") else None
        note = f"as before, for rows in the order {order}"
        expect_equal(moved, {symbol: x[order] for symbol, x in whole.items()}, counted, note=note)


def _steps_independent(subject: Subject, case: Any) -> None:
    """Give every step a row of its own, all in one call."""
    whole, steps = plain(subject(case)), _steps(case)

    def apart(_: str, axes: str, x: Tensor) -> Tensor:
        return x.repeat_interleave(steps, 0) if axes == "row" else x.flatten(0, 1)[:, None]

    counted = case.valid.flatten()[:, None] if hasattr(case, "valid") else None
    alone = plain(subject(map_fields(case, apart)))
    part = {symbol: x.flatten(0, 1)[:, None] for symbol, x in whole.items()}
    expect_equal(part, alone, counted, note="as the step gets in a row of its own")


def _steps(case: Any) -> int:
    return int(next(x for _, _, x in tensors(case)).shape[1])


def _runs_apart(subject: Subject, case: Any) -> None:
    """Compare one call on two runs with two calls; the second run has other numbers."""
    subject(case)
    other = map_fields(case, lambda _, __, x: x.flip(0) / 2 if x.is_floating_point() else x.flip(0))
    both = map_fields(case, lambda name, _, x: torch.stack([x, getattr(other, name)]))
    try:
        found = subject.call(both)
    except UnansweredError as error:
        raise Violation(error.got, "an answer to two runs stacked on axis 0") from None
    for run, single in enumerate((case, other)):
        part = {symbol: x[run] for symbol, x in found.items()}
        note = f"as run {run} of two gets alone"
        expect_equal(part, plain(subject(single)), getattr(single, "valid", None), note=note)


def _scoped(*scopes: str) -> Callable[[Component], str | None]:
    def applies(component: Component) -> str | None:
        return None if component.scope in scopes else f"its scope is {component.scope}"

    return applies


def _is_stacked(component: Component) -> str | None:
    several = component.stacked or component.scope in ("step", "episode", "item")
    return None if several else f"its scope is {component.scope} and it is not stacked: it sees one run per call"


LAWS: Final[list[Law]] = [
    (
        ROWS[:-1],
        Property(
            "batch-rows-independent",
            "",
            "a row gets what it would get alone",
            f"{CONTRACT}: scope step, item and episode",
            False,
            _rows_independent,
            applies=_scoped("step", "item", "episode"),
        ),
    ),
    (
        ROWS,
        Property(
            "batch-rows-permute",
            "",
            "rows in another order get the same answers in that order",
            "R1-V issue 67; prime-rl 600",
            False,
            _rows_permute,
        ),
    ),
    (
        STEPWISE,
        Property(
            "steps-independent",
            "",
            "a step gets what it would get alone",
            f"{CONTRACT}: scope step",
            False,
            _steps_independent,
            applies=_scoped("step"),
        ),
    ),
    (
        ROWS,
        Property(
            "runs-apart",
            "",
            "runs stacked on a leading axis get what each would get alone",
            CONTRACT,
            False,
            _runs_apart,
            applies=_is_stacked,
        ),
    ),
]
