"""Laws about calls: an answer of the right form, no trace left behind, the same math in every precision and place."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.guard import random_states
from rlhf_lab.conformance.inputs import map_fields, take_rows, tensors
from rlhf_lab.conformance.properties.shared import (
    ALL,
    CONTRACT,
    FLOATS,
    ORDERLESS,
    Law,
    copied,
    expect_finite,
    plain,
    rows,
)
from rlhf_lab.conformance.property import Property, Violation, expect_equal, expect_true
from rlhf_lab.conformance.subject import RefusedError, Subject, UnansweredError, UnjudgedError

__all__ = ["LAWS"]

_JUMP: Final = 2.0**-4  # a relative move beyond it, where inputs move by 2^-6, is a step and no slope
_FLOAT32: Final = 2e-4  # relative to the largest number: float32 keeps 7 digits, sums and exponentials lose some


def _answers(subject: Subject, case: Any) -> None:
    answer = subject.base_answer()
    valid = getattr(case, "valid", None)
    for symbol, x in answer.items():
        expect_finite(symbol, x, valid, "finite numbers where valid")


def _inputs_untouched(subject: Subject, case: Any) -> None:
    subject(case)
    given = subject.asked(case)
    subject.call(given)
    for name, _, x in tensors(subject.asked(case)):
        if not torch.equal(x, getattr(given, name)):
            raise Violation(f"{name} changed in place", "inputs as they were; work on a copy")


def _repeatable(subject: Subject, case: Any) -> None:
    """Ask again, after another question that must leave no trace."""
    first = subject(case)
    states = random_states()
    subject(take_rows(case, [0] * (rows(case) + 1)))
    again = subject(copied(case))
    if random_states() != states:
        raise Violation("global randomness used", "none: randomness comes as `uniforms` of the batch")
    expect_equal(again, first, getattr(case, "valid", None), note="as in the first call", tolerance=0.0)


def _float32(subject: Subject, case: Any) -> None:
    """Allow rounding, and as much as any number of the exact answer moves when the inputs do by a little more.

    Any, not each: of z-scores, one may stand still where the others move, and yet be rounded as much as they are.
    """
    exact = plain(subject(case))
    single = subject(map_fields(case, lambda _, __, x: x.float() if x.dtype == torch.float64 else x))
    moved = [subject(map_fields(case, partial(_nudged, step=step))) for step in (0.5, 0.618)]
    rounded = {}
    for symbol, x in single.items():
        asked = symbol in ORDERLESS or x.dtype == torch.float32
        expect_true(asked, f"{symbol} in {x.dtype}", "torch.float32, as asked")
        rounded[symbol] = x.double()
        if symbol in exact:
            far = torch.stack([each[symbol] - exact[symbol] for each in moved]).abs().nan_to_num()
            near = (x.double() - exact[symbol]).abs() <= 4 * max(far.flatten().tolist(), default=0.0)
            rounded[symbol] = torch.where(near, exact[symbol], x.double())
    expect_equal(rounded, exact, getattr(case, "valid", None), note="in float64", tolerance=_FLOAT32)


def _float64(_: Subject, cases: list[tuple[Subject, Any]]) -> None:
    """Find for each part of the answer, where it moves at all, a number that moves by less than float32 can tell.

    What was rounded to float32 anywhere stays where it is, or jumps. What only ever jumps, as the slope of a hinge, has
    no digits.
    """
    kept: set[str] = set()
    moved: set[str] = set()
    for subject, case in cases[::-1]:
        fine = map_fields(case, partial(_nudged, step=0.618, size=2.0**-28))
        finer = map_fields(fine, partial(_nudged, step=0.382, size=2.0**-40))
        try:
            symbols = plain(subject(case)).keys() - {"weights"}  # which count rows, and have no digits
            kept |= {symbol for symbol, x in _moves(subject, fine, finer) if bool(((x > 0) & (x < 2.0**-32)).any())}
            rough = map_fields(case, partial(_nudged, step=0.618, size=2.0**-6))
            moved |= {symbol for symbol, x in _moves(subject, case, rough) if bool(((x > 0) & (x < _JUMP)).any())}
        except (UnjudgedError, RefusedError, UnansweredError):
            continue
        if symbols <= kept:
            return
    for symbol in sorted(moved - kept):
        raise Violation(f"{symbol} with the digits of float32", "one that reads all digits of float64 inputs")


def _moves(subject: Subject, case: Any, other: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield by how much, relative to itself, each valid number of the answer differs between two cases."""
    first, second, valid = subject(case), subject(other), getattr(case, "valid", None)
    for symbol, x in plain(first).items():
        moves = (second[symbol] - x).abs() / x.abs()
        yield symbol, moves if valid is None or x.shape != valid.shape else moves[valid]


def _nudged(name: str, _: Any, x: Tensor, step: float, size: float = 2.0**-20) -> Tensor:
    """Return numbers moved by up to a share of ``size``, each otherwise than its neighbours, as ``step`` says.

    One way alone may happen to be one that leaves the answer as it is, such as a shift. The default is a few units of
    float32's last digit.
    """
    if x.dtype != torch.float64:
        return x
    uneven = torch.arange(1, x.numel() + 1, dtype=torch.float64).view(x.shape) * step % 1
    moved = x * (1 + (2 * uneven - 1) * size)
    return moved.clamp(max=1) if name == "preference_prob" else moved


def _implementations_agree(subject: Subject, case: Any) -> None:
    whole = plain(subject(case))
    for name, enter in subject.component.implementations().items():
        with enter():
            found = subject(copied(case))
        expect_equal(found, whole, getattr(case, "valid", None), note=f"as elsewhere, computed by {name}")
        expect_equal(found, {s: x for s, x in whole.items() if s == "A"}, note=f"as elsewhere, computed by {name}")


def _has_variants(component: Component) -> str | None:
    return None if component.implementations() else "it has one implementation"


LAWS: Final[list[Law]] = [
    (
        ALL,
        Property(
            "answers-every-batch",
            "",
            "every batch of its contract gets an answer of the right type, shape and dtype, finite where valid, "
            "without a gradient into what is given",
            CONTRACT,
            False,
            _answers,
        ),
    ),
    (
        ALL,
        Property(
            "inputs-untouched",
            "",
            "inputs are not changed in place",
            CONTRACT,
            False,
            _inputs_untouched,
        ),
    ),
    (
        ALL,
        Property(
            "repeatable",
            "",
            "the same batch gets the same answer, whatever was asked in between; no global randomness",
            CONTRACT,
            False,
            _repeatable,
        ),
    ),
    (
        FLOATS,
        Property(
            "float32-agrees",
            "",
            "float32 inputs get the answer of float64 inputs up to rounding, in float32",
            "DeepSpeedExamples issue 423",
            False,
            _float32,
        ),
    ),
    (
        FLOATS,
        Property(
            "float64-kept",
            "",
            "float64 inputs get an answer that reads digits which float32 does not have",
            CONTRACT,
            False,
            _float64,
            whole=True,
        ),
    ),
    (
        ALL,
        Property(
            "implementations-agree",
            "",
            "every implementation of the same math (as for another device) gives the same answer",
            CONTRACT,
            False,
            _implementations_agree,
            applies=_has_variants,
        ),
    ),
]
