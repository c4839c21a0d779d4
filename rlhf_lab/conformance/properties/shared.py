"""What laws of several roles share: which roles they concern, and how answers are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from rlhf_lab.conformance.inputs import map_fields, tensors
from rlhf_lab.conformance.property import Property, Violation, show_number

__all__ = [
    "ALL",
    "CONTRACT",
    "FLOATS",
    "ITEMS",
    "MASKED",
    "ORDERLESS",
    "ROWS",
    "STEPWISE",
    "Law",
    "copied",
    "expect_finite",
    "plain",
    "rows",
]

Law = tuple[tuple[str, ...], Property]  # the roles that it concerns, and the law for a role yet to be named

ITEMS: Final = ("preference", "reward_model")  # a row has candidates in place of steps, and one loss
MASKED: Final = ("advantage", "normalizer", "objective", "value", *ITEMS, "aggregation")
STEPWISE: Final = ("objective", "value", "kl")
ROWS: Final = ("advantage", "normalizer", "objective", "value", "kl", *ITEMS, "aggregation")
ALL: Final = (*ROWS, "controller")
FLOATS: Final = tuple(role for role in ALL if role != "aggregation")  # which sees masks only
CONTRACT: Final = "contract of rlhf_lab"
ORDERLESS: Final = frozenset({"weights", "total"})  # of an aggregation: only their quotient has a meaning


def expect_finite(symbol: str, x: Tensor, where: Tensor | None, expected: str) -> None:
    """Raise ``Violation`` at the first number that is not finite, ``where`` it counts if that has its shape."""
    bad = ~x.isfinite() if where is None or x.shape != where.shape else where & ~x.isfinite()
    if bool(bad.any()):
        at = [int(i) for i in bad.nonzero()[0]]
        raise Violation(f"{symbol}{at} = {show_number(float(x[tuple(at)]))}", expected)


def rows(case: Any) -> int:
    """Return the number of rows of a batch."""
    return int(next(x for _, _, x in tensors(case)).shape[0])


def copied(case: Any) -> Any:
    """Return an equal batch of other tensors."""
    return map_fields(case, lambda _, __, x: x.clone())


def plain(answer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the answer without what has a meaning only together."""
    return {symbol: x for symbol, x in answer.items() if not ({"share"} <= answer.keys() and symbol in ORDERLESS)}
