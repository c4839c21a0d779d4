"""Laws that hold in every role: an answer of the right form, padding that changes nothing, rows that do not mix.

Each is written once for batches ``[rows, t]`` and offered to the roles that it concerns by ``common_laws``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.guard import random_states
from rlhf_lab.conformance.inputs import insert_steps, map_fields, take_rows, tensors, with_fields
from rlhf_lab.conformance.property import Property, Violation, expect_equal, expect_true, show_number
from rlhf_lab.conformance.settings import alternatives
from rlhf_lab.conformance.subject import RefusedError, Subject, UnansweredError, UnjudgedError

__all__ = ["common_laws"]

_FLOAT32: Final = 2e-4  # relative to the largest number: float32 keeps 7 digits, sums and exponentials lose some
_ORDERLESS: Final = frozenset({"weights", "total"})  # of an aggregation: only their quotient has a meaning


def _answers(subject: Subject, case: Any) -> None:
    answer = subject.base_answer()
    valid = getattr(case, "valid", None)
    for symbol, x in answer.items():
        bad = ~x.isfinite() if valid is None or x.shape != valid.shape else valid & ~x.isfinite()
        if bool(bad.any()):
            at = [int(i) for i in bad.nonzero()[0]]
            raise Violation(f"{symbol}{at} = {show_number(float(x[tuple(at)]))}", "finite numbers where valid")


def _zero_where_invalid(subject: Subject, case: Any) -> None:
    for symbol, x in subject(case).items():
        if symbol == "A" or symbol.startswith("dL/d"):
            expect_equal({symbol: x}, {symbol: torch.zeros_like(x)}, ~case.valid, note="at an invalid step")


def _padding_content(subject: Subject, case: Any) -> None:
    before = subject(case)
    for junk in (torch.nan, -1e6):

        def poison(_: str, axes: str, x: Tensor, junk: float = junk) -> Tensor:
            return x.masked_fill(~case.valid, junk) if axes == "same" and x.is_floating_point() else x

        note = f"as before, whatever stands at invalid steps ({junk} now)"
        after = subject(map_fields(case, poison))
        expect_equal(after, _plain(before), case.valid, note=note)
        slopes = {symbol: x for symbol, x in after.items() if symbol.startswith("dL/d")}
        nothing = {symbol: torch.zeros_like(x) for symbol, x in slopes.items()}
        expect_equal(slopes, nothing, ~case.valid, note=f"at an invalid step, which holds {junk}: clean the inputs")


def _padding_width(subject: Subject, case: Any) -> None:
    before, steps = _plain(subject(case)), case.valid.shape[-1]
    wider = subject(insert_steps(insert_steps(case, steps, 32.0, 2), 0, -32.0, 3))
    inner = {symbol: x[..., 3 : 3 + steps] for symbol, x in wider.items()}
    expect_equal(inner, before, case.valid, note="as without three more invalid steps at the left and two at the right")


def _invalid_steps_crossed(subject: Subject, case: Any) -> None:
    before, steps = _plain(subject(case)), case.valid.shape[-1]
    wider = case
    for position in reversed(range(1, steps)):
        wider = insert_steps(wider, position, -32.0)
    inner = {symbol: x[..., ::2] for symbol, x in subject(wider).items()}
    expect_equal(inner, before, case.valid, note="as without an invalid step between any two steps")


def _rows_independent(subject: Subject, case: Any) -> None:
    whole = _plain(subject(case))
    for row in sorted({0, _rows(case) - 1}):
        alone = subject(take_rows(case, [row]))
        counted = case.valid[[row]] if hasattr(case, "valid") else None
        part = {symbol: x[[row]] for symbol, x in whole.items()}
        expect_equal(part, _plain(alone), counted, note=f"as row {row} gets alone")


def _rows_permute(subject: Subject, case: Any) -> None:
    whole, rows = _plain(subject(case)), _rows(case)
    for order in ([*range(rows)][::-1], [*range(1, rows), 0]):
        moved = subject(take_rows(case, order))
        counted = case.valid[order] if hasattr(case, "valid") else None
        note = f"as before, for rows in the order {order}"
        expect_equal(moved, {symbol: x[order] for symbol, x in whole.items()}, counted, note=note)


def _steps_independent(subject: Subject, case: Any) -> None:
    """Give every step a row of its own, all in one call."""
    whole, steps = _plain(subject(case)), _steps(case)

    def apart(_: str, axes: str, x: Tensor) -> Tensor:
        return x.repeat_interleave(steps, 0) if axes == "row" else x.flatten(0, 1)[:, None]

    counted = case.valid.flatten()[:, None] if hasattr(case, "valid") else None
    alone = _plain(subject(map_fields(case, apart)))
    part = {symbol: x.flatten(0, 1)[:, None] for symbol, x in whole.items()}
    expect_equal(part, alone, counted, note="as the step gets in a row of its own")


def _steps(case: Any) -> int:
    return int(next(x for _, _, x in tensors(case)).shape[1])


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
    subject(take_rows(case, [0] * (_rows(case) + 1)))
    again = subject(_copy(case))
    if random_states() != states:
        raise Violation("global randomness used", "none: randomness comes as `uniforms` of the batch")
    expect_equal(again, first, getattr(case, "valid", None), note="as in the first call", tolerance=0.0)


def _copy(case: Any) -> Any:
    return map_fields(case, lambda _, __, x: x.clone())


def _float32(subject: Subject, case: Any) -> None:
    """Allow rounding, and as much as the exact answer moves when the inputs do by a little more than that."""
    exact = _plain(subject(case))
    single = subject(map_fields(case, lambda _, __, x: x.float() if x.dtype == torch.float64 else x))
    moved = subject(map_fields(case, lambda _, __, x: _nudged(x) if x.dtype == torch.float64 else x))
    rounded = {}
    for symbol, x in single.items():
        asked = symbol in _ORDERLESS or x.dtype == torch.float32
        expect_true(asked, f"{symbol} in {x.dtype}", "torch.float32, as asked")
        slack = 4 * (moved[symbol] - exact[symbol]).abs() if symbol in exact else 0.0
        near = (x.double() - exact[symbol]).abs() <= slack if symbol in exact else None
        rounded[symbol] = x.double() if near is None else torch.where(near, exact[symbol], x.double())
    expect_equal(rounded, exact, getattr(case, "valid", None), note="in float64", tolerance=_FLOAT32)


def _nudged(x: Tensor) -> Tensor:
    """Return numbers moved by a few units of float32's last digit, up and down in turn."""
    signs = 1 - 2.0 * (torch.arange(x.numel()).view(x.shape) % 2)
    return x * (1 + signs * 2.0**-21)


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
        expect_equal(part, _plain(subject(single)), getattr(single, "valid", None), note=note)


def _parameters_matter(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    for name, info in type(subject.component).model_fields.items():
        others = [value for value in alternatives(info) if value is not None]
        if len(others) > 1 and not any(_differs(each, case, name, others) for each, case in cases[::-1]):
            raise Violation(f"{name} changes no answer to {len(cases)} cases", "a parameter that is read, or none")


def _differs(subject: Subject, case: Any, name: str, others: list[Any]) -> bool:
    component = subject.component
    values = {field: getattr(component, field) for field in type(component).model_fields}
    for other in others:
        try:
            changed = type(component)(**{**values, name: other})
            found = Subject(changed, subject.view, subject.guard)(case)
            expect_equal(found, _plain(subject(case)), getattr(case, "valid", None), tolerance=1e-12)
        except Violation:
            return True
        except (ValueError, UnjudgedError, RefusedError):
            continue
    return False


def _fields_matter(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    for name in sorted(subject.component.needs()):
        if name in ("state", "uniforms"):
            continue
        if not any(_reads(each, case, name) for each, case in cases[::-1]):
            raise Violation(f"{name} changes no answer to {len(cases)} cases", f"{name} read, or not required")


def _reads(subject: Subject, case: Any, name: str) -> bool:
    found = getattr(case, name, None)
    if found is None:
        return False
    numbers = torch.arange(found.numel()).view(found.shape)
    changed = (found.flip(0) + 1) * 7 if not found.is_floating_point() else found + 0.5 + 0.25 * (numbers % 3)
    if name == "group_ids":
        changed = torch.zeros_like(found) if bool((found != found[0]).any()) else numbers
    try:
        after = subject(with_fields(case, {name: changed}))
        expect_equal(after, _plain(subject(case)), getattr(case, "valid", None), tolerance=1e-12)
    except UnansweredError:
        return False
    except Violation:
        return True
    except (ValueError, UnjudgedError, RefusedError):
        return False
    return False


def _implementations_agree(subject: Subject, case: Any) -> None:
    whole = _plain(subject(case))
    for name, enter in subject.component.implementations().items():
        with enter():
            found = subject(_copy(case))
        expect_equal(found, whole, getattr(case, "valid", None), note=f"as elsewhere, computed by {name}")
        expect_equal(found, {s: x for s, x in whole.items() if s == "A"}, note=f"as elsewhere, computed by {name}")


def _rows(case: Any) -> int:
    return int(next(x for _, _, x in tensors(case)).shape[0])


def _plain(answer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the answer without what has a meaning only together."""
    return {symbol: x for symbol, x in answer.items() if not ({"share"} <= answer.keys() and symbol in _ORDERLESS)}


def _scoped(*scopes: str) -> Callable[[Component], str | None]:
    def applies(component: Component) -> str | None:
        return None if component.scope in scopes else f"its scope is {component.scope}"

    return applies


def _is_stacked(component: Component) -> str | None:
    several = component.stacked or component.scope in ("step", "episode", "item")
    return None if several else f"its scope is {component.scope} and it is not stacked: it sees one run per call"


def _has_variants(component: Component) -> str | None:
    return None if component.implementations() else "it has one implementation"


def _has_parameters(component: Component) -> str | None:
    return None if type(component).model_fields else "it has no hyper-parameters"


def _has_needs(component: Component) -> str | None:
    return None if component.needs() - {"state", "uniforms"} else "it requires no optional field"


_MASKED: Final = ("advantage", "normalizer", "objective", "value", "aggregation")
_STEPWISE: Final = ("objective", "value", "kl")
_ROWS: Final = ("advantage", "normalizer", "objective", "value", "kl", "aggregation")
_ALL: Final = (*_ROWS, "controller")
_CONTRACT: Final = "contract of rlhf_lab"

_LAWS: Final[tuple[tuple[tuple[str, ...], Property], ...]] = (
    (
        _ALL,
        Property(
            "answers-every-batch",
            "",
            "every batch of its contract gets an answer of the right type, shape and dtype, finite where valid, "
            "without a gradient into what is given",
            _CONTRACT,
            False,
            _answers,
        ),
    ),
    (
        ("advantage", "normalizer", "objective", "value"),
        Property(
            "zero-where-invalid",
            "",
            "advantages and gradients are 0 at invalid steps",
            _CONTRACT,
            False,
            _zero_where_invalid,
        ),
    ),
    (
        _MASKED[:-1],
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
        _MASKED,
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
        _MASKED,
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
        _ROWS[:-1],
        Property(
            "batch-rows-independent",
            "",
            "a row gets what it would get alone",
            f"{_CONTRACT}: scope step and episode",
            False,
            _rows_independent,
            applies=_scoped("step", "episode"),
        ),
    ),
    (
        _ROWS,
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
        _STEPWISE,
        Property(
            "steps-independent",
            "",
            "a step gets what it would get alone",
            f"{_CONTRACT}: scope step",
            False,
            _steps_independent,
            applies=_scoped("step"),
        ),
    ),
    (
        _ALL,
        Property(
            "inputs-untouched",
            "",
            "inputs are not changed in place",
            _CONTRACT,
            False,
            _inputs_untouched,
        ),
    ),
    (
        _ALL,
        Property(
            "repeatable",
            "",
            "the same batch gets the same answer, whatever was asked in between; no global randomness",
            _CONTRACT,
            False,
            _repeatable,
        ),
    ),
    (
        _ALL,
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
        _ROWS,
        Property(
            "runs-apart",
            "",
            "runs stacked on a leading axis get what each would get alone",
            _CONTRACT,
            False,
            _runs_apart,
            applies=_is_stacked,
        ),
    ),
    (
        _ALL,
        Property(
            "parameters-matter",
            "",
            "every hyper-parameter changes the answer to some batch",
            "axolotl issue 3731; cleanrl 203",
            False,
            _parameters_matter,
            applies=_has_parameters,
            whole=True,
        ),
    ),
    (
        ("advantage", "normalizer", "objective", "value"),
        Property(
            "required-fields-matter",
            "",
            "every required field changes the answer to some batch",
            "tensorforce issue 312; tensorflow/agents 352",
            False,
            _fields_matter,
            applies=_has_needs,
            whole=True,
        ),
    ),
    (
        _ALL,
        Property(
            "implementations-agree",
            "",
            "every implementation of the same math (as for another device) gives the same answer",
            _CONTRACT,
            False,
            _implementations_agree,
            applies=_has_variants,
        ),
    ),
)


def common_laws(role: str) -> list[Property]:
    """Return the laws that the role shares with others."""
    return [replace(law, role=role) for roles, law in _LAWS if role in roles]
