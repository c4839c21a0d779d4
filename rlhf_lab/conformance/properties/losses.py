"""What roles with a loss share: a loss must teach something, and its gradient may be that of its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.property import Check, Property, Violation, expect_equal
from rlhf_lab.conformance.subject import RefusedError, Subject, UnansweredError, UnjudgedError

__all__ = ["answered", "every_step_counts_once", "gradient_of_its_value", "some_gradient"]

STEP: Final = 2.0**-17  # of central differences, small beside every distance to a kink
_KINK: Final = 0.01  # a jump of the slope that is told from curvature
_COARSE: Final = 2.0**16  # a loss whose rounding shows in central differences


def answered(check: Check) -> Check:
    """Return a check that leaves it to ``answers-every-batch`` to tell that a case gets no answer at all."""

    def checked(subject: Subject, case: Any) -> None:
        try:
            check(subject, case)
        except UnansweredError:
            subject(case)  # raises UnjudgedError where the case itself, and not only a changed one, has no answer
            raise

    return checked


def some_gradient(role: str) -> Property:
    """Return the law that some batch has a gradient."""

    def check(_: Subject, cases: list[tuple[Subject, Any]]) -> None:
        answers = []
        for subject, case in cases:
            try:
                answers.append(subject(case))
            except RefusedError:
                continue
            except UnjudgedError:
                return
        slopes = [x for answer in answers for symbol, x in answer.items() if symbol.startswith("dL/d")]
        if answers and not any(bool((x != 0).any()) for x in slopes):
            raise Violation(f"gradient 0 for all of {len(answers)} batches", "a loss that can be lowered")

    statement = "some batch has a gradient that is not 0"
    return Property("some-gradient", role, statement, "tensorforce issue 312", False, check, whole=True)


def every_step_counts_once(role: str) -> Property:
    """Return the claim that a loss has no weights, or weights of 1."""

    def check(subject: Subject, case: Any) -> None:
        answer = subject(case)
        if "weights" in answer:
            expect_equal(answer, {"weights": torch.ones_like(answer["weights"])}, case.valid, note="at a valid step")

    statement = "every valid step counts once in an average, also one without gradient"
    return Property("every-step-counts-once", role, statement, "contract of rlhf_lab", True, check)


def gradient_of_its_value(role: str, field: str) -> Property:
    """Return the claim that the gradient with respect to ``field`` is the derivative of the value, away from kinks."""

    def check(subject: Subject, case: Any) -> None:
        here, x = subject(case), getattr(case, field)
        slope, smooth = torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)
        for part in _parts(x, here["L"]):
            up, down = (subject(with_fields(case, {field: x + by * part}))["L"] for by in (STEP, -STEP))
            even = ((up - 2 * here["L"] + down).abs() < _KINK * STEP) & (here["L"].abs() <= _COARSE)
            change = (up - down) / (2 * STEP) * here.get("weights", torch.ones_like(up))
            if x.ndim > up.ndim:  # a loss per row: this candidate's part in it
                even, change = even[:, None], change[:, None]
            slope, smooth = torch.where(part, change, slope), torch.where(part, even, smooth)
        note = "by central differences of L"
        expect_equal(here, {f"dL/d{field}": slope}, case.valid & smooth, note=note, tolerance=1e-5)

    return Property(
        "gradient-of-its-value",
        role,
        f"the gradient is the derivative of L with respect to {field}: nothing that depends on {field} is detached",
        "by the definition of a derivative",
        True,
        answered(check),
        applies=_by_steps,
        share=0.25,
    )


def _parts(x: Tensor, losses: Tensor) -> Iterator[Tensor]:
    """Yield what may move at once: everything where each step has its own loss, else one candidate of each row."""
    if x.ndim == losses.ndim:
        yield torch.ones_like(x, dtype=torch.bool)
        return
    for candidate in range(x.shape[-1]):
        part = torch.zeros_like(x, dtype=torch.bool)
        part[..., candidate] = True
        yield part


def _by_steps(component: Component) -> str | None:
    alone = component.scope in ("step", "item")
    return None if alone else f"its scope is {component.scope}; this is told of one step at a time"
