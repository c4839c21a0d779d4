"""Laws about invalid steps: what stands there, and how many there are, changes nothing."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import insert_steps, map_fields, take_rows, with_fields
from rlhf_lab.conformance.properties.shared import CONTRACT, ITEMS, MASKED, Law, expect_finite, plain
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject

__all__ = ["LAWS"]

_ANY_LENGTH: Final = 7  # or rank, or whatever integers mean


def _zero_where_invalid(subject: Subject, case: Any) -> None:
    for symbol, x in subject(case).items():
        if symbol == "A" or symbol.startswith("dL/d"):
            expect_equal({symbol: x}, {symbol: torch.zeros_like(x)}, ~case.valid, note="at an invalid step")


def _padding_content(subject: Subject, case: Any) -> None:
    before = subject(case)
    for junk in (torch.nan, -1e6):

        def poison(_: str, axes: str, x: Tensor, junk: float = junk) -> Tensor:
            if axes == "row" or x.dtype == torch.bool:
                return x
            invalid = ~case.valid if axes == "same" else ~case.valid[..., None].expand_as(x)
            return x.masked_fill(invalid, junk if x.is_floating_point() else _ANY_LENGTH)

        note = f"as before, whatever stands at invalid steps ({junk} now)"
        after = subject(map_fields(case, poison))
        if "L" in after:
            expect_finite("L", after["L"], None, "a number at every step, since 0 · nan is nan: clean the inputs")
        expect_equal(after, plain(before), case.valid, note=note)
        slopes = {symbol: x for symbol, x in after.items() if symbol.startswith("dL/d")}
        nothing = {symbol: torch.zeros_like(x) for symbol, x in slopes.items()}
        expect_equal(slopes, nothing, ~case.valid, note=f"at an invalid step, which holds {junk}: clean the inputs")


def _padding_width(subject: Subject, case: Any) -> None:
    before, steps = plain(subject(case)), case.valid.shape[-1]
    wider = subject(insert_steps(insert_steps(case, steps, 32.0, 2), 0, -32.0, 3))
    inner = {symbol: _taken(x, case, slice(3, 3 + steps)) for symbol, x in wider.items()}
    expect_equal(inner, before, case.valid, note="as without three more invalid steps at the left and two at the right")


def _taken(x: Tensor, case: Any, steps: slice) -> Tensor:
    """Return some steps of an answer: of all steps, of whole rows, or of the tokens of candidates."""
    if x.ndim < case.valid.ndim:
        return x
    return x[..., steps] if x.ndim == case.valid.ndim else x[..., steps, :]


def _invalid_steps_crossed(subject: Subject, case: Any) -> None:
    before, steps = plain(subject(case)), case.valid.shape[-1]
    wider = case
    for position in reversed(range(1, steps)):
        wider = insert_steps(wider, position, -32.0)
    inner = {symbol: _taken(x, case, slice(None, None, 2)) for symbol, x in subject(wider).items()}
    expect_equal(inner, before, case.valid, note="as without an invalid step between any two steps")


def _no_mask(subject: Subject, case: Any) -> None:
    full = case.valid.all(-1).nonzero().flatten().tolist()
    if full:
        whole = take_rows(case, full)
        due = {symbol: x for symbol, x in subject(whole).items() if symbol != "weights"}
        expect_equal(subject(with_fields(whole, {"valid": None})), due, note="as with valid = True everywhere")


LAWS: Final[list[Law]] = [
    (
        MASKED[:-1],
        Property(
            "zero-where-invalid",
            "",
            "advantages and gradients are 0 at invalid steps",
            CONTRACT,
            False,
            _zero_where_invalid,
        ),
    ),
    (
        MASKED[:-1],
        Property(
            "padding-content-ignored",
            "",
            "what stands at invalid steps, NaN included, changes nothing, neither value nor gradient",
            "verl issues 1527 and 2377; DeepSpeed-Chat 620",
            False,
            _padding_content,
        ),
    ),
    (
        MASKED,
        Property(
            "padding-width-ignored",
            "",
            "more padding at the left or right of the rows changes nothing",
            "sentence-transformers issue 3827; trlx 107",
            False,
            _padding_width,
        ),
    ),
    (
        tuple(role for role in MASKED if role not in ITEMS),
        Property(
            "invalid-steps-crossed",
            "",
            "invalid steps inside an episode (observations) neither receive nor pass nor decay credit",
            "verl issue 7278",
            False,
            _invalid_steps_crossed,
        ),
    ),
    (
        ITEMS,
        Property(
            "invalid-candidates-crossed",
            "",
            "invalid candidates between the valid ones of a row change nothing",
            "sentence-transformers issue 3827",
            False,
            _invalid_steps_crossed,
        ),
    ),
    (
        ITEMS,
        Property(
            "no-mask-counts-all",
            "",
            "without `valid` every candidate counts",
            CONTRACT,
            False,
            _no_mask,
        ),
    ),
]
