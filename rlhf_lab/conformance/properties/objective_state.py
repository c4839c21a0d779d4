"""Laws of policy losses that keep a state, such as a penalty's coefficient, from one optimiser step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor

from rlhf_lab.calling import call, restrict
from rlhf_lab.components import Component, Controller, PolicyObjective, Slot
from rlhf_lab.conformance.inputs import map_fields, with_fields
from rlhf_lab.conformance.properties.losses import answered
from rlhf_lab.conformance.property import Property, Violation, expect_equal, expect_true
from rlhf_lab.conformance.subject import RefusedError, Subject, UnansweredError, UnjudgedError
from rlhf_lab.types import Loss, PolicyBatch

__all__ = ["LAWS", "Affine", "reduced_metrics"]


class Affine(Controller):
    """β ← 2 β + observed: no controller that a component would have in its code."""

    name = "affine"

    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor:
        return 2 * coefficient + observed


def reduced_metrics(subject: Subject, case: PolicyBatch, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics of one call as a trainer hands them to ``next_state``: their means over valid steps."""
    component = cast("PolicyObjective", subject.component)
    asked = restrict(subject.asked(with_fields(case, {"state": state})), component)
    loss: Loss = subject.guard.call(call, component, asked)
    weights = case.valid.to(case.log_probs)
    total = weights.sum().clamp(min=1)
    return {name: (x * weights).sum() / total for name, x in loss.metrics.items()}


def _starts_as_initial(subject: Subject, case: PolicyBatch) -> None:
    expect_equal(subject(with_fields(case, {"state": {}})), subject(case), case.valid, note="as with initial_state()")


def _keeps_form(subject: Subject, case: PolicyBatch) -> None:
    component = cast("PolicyObjective", subject.component)
    before = component.initial_state()
    state = {name: x.clone() for name, x in before.items()}
    after = component.next_state(state, reduced_metrics(subject, case, state))
    for name, x in before.items():
        expect_true(torch.equal(state[name], x), f"state[{name!r}] changed in place", "a new state")
    form = {name: (x.shape, x.dtype) for name, x in before.items()}
    found = {name: (x.shape, x.dtype) for name, x in after.items()}
    expect_true(found == form, f"next_state of the form {_shown(found)}", f"that of initial_state, {_shown(form)}")
    for name, x in after.items():
        fine = bool(x.isfinite().all()) and not x.requires_grad
        expect_true(fine, f"state[{name!r}] = {x}", "finite numbers without gradient")
    subject(with_fields(case, {"state": after}))


def _state_matters(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    for each, case in cases:
        before = cast("PolicyObjective", each.component).initial_state()
        try:
            expect_equal(each(with_fields(case, {"state": _another(before)})), each(case), case.valid)
        except (Violation, UnjudgedError):  # it answers otherwise, or nothing at all, which another law tells
            return
        except RefusedError:
            continue
    raise Violation(f"no answer to {len(cases)} cases changes with the state", "a state that is read, or none")


def _another(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: ~x if x.dtype == torch.bool else 2 * x + 1 for name, x in state.items()}


def _shown(form: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}{list(shape)} {kind}".replace("torch.", "") for name, (shape, kind) in form.items())


def _runs_have_their_own(subject: Subject, case: PolicyBatch) -> None:
    """Compare one call on two runs, whose states differ, with two calls."""
    component = cast("PolicyObjective", subject.component)
    before = component.initial_state()
    states = [before, _another(before)]
    both = {name: torch.stack([each[name] for each in states]) for name in before}
    doubled: PolicyBatch = map_fields(case, lambda _, __, x: torch.stack([x, x]))
    try:
        found = subject.call(with_fields(doubled, {"state": both}))
    except UnansweredError as error:
        raise Violation(error.got, "an answer to two runs with a state each") from None
    for run, state in enumerate(states):
        part = {symbol: x[run] for symbol, x in found.items()}
        note = f"as run {run} of two gets alone with its state"
        expect_equal(part, subject(with_fields(case, {"state": state})), case.valid, note=note)
    seen = [reduced_metrics(subject, case, state) for state in states]
    after = component.next_state(both, {name: torch.stack([each[name] for each in seen]) for name in seen[0]})
    for run in range(2):
        alone = component.next_state(states[run], seen[run])
        part = {f"next state[{name!r}]": x[run] for name, x in after.items()}
        due = {f"next state[{name!r}]": x for name, x in alone.items()}
        expect_equal(part, due, note=f"as run {run} of two gets alone")


def _controller_decides(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    (place,) = _controllers(subject.component)
    for each, case in cases:
        component, other = (cast("PolicyObjective", x.component) for x in (each, each.of(**{place: Affine()})))
        try:
            state = component.initial_state()
            seen = reduced_metrics(each, case, state)
        except (Violation, UnjudgedError, RefusedError):
            continue
        first, second = (its.next_state(state, seen) for its in (component, other))
        if any(not torch.equal(x, second[name]) for name, x in first.items()):
            return
    raise Violation(f"the same next state with any {place}", f"one that {place} decides")


def _controllers(component: Component) -> list[str]:
    fields = type(component).model_fields.items()
    return [name for name, info in fields if any(isinstance(x, Slot) and x.role == "controller" for x in info.metadata)]


def _stateful(component: Component) -> str | None:
    return None if cast("PolicyObjective", component).initial_state() else "it has no state"


def _controlled(component: Component) -> str | None:
    return None if len(_controllers(component)) == 1 else "it has no controller"


def _law(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    options = {"share": 0.25, "applies": _stateful, **options}
    return Property(id_, "objective", statement, reference, False, answered(check), **options)


LAWS: Final[list[Property]] = [
    _law(
        "starts-as-initial-state",
        "a batch without state gets the answer of initial_state()",
        "contract of rlhf_lab",
        _starts_as_initial,
    ),
    _law(
        "state-keeps-its-form",
        "next_state returns new finite tensors with keys, shapes and dtypes of initial_state, and the loss takes them",
        "contract of rlhf_lab",
        _keeps_form,
    ),
    _law(
        "state-matters",
        "another state than the initial one changes the answer to some batch",
        "contract of rlhf_lab",
        _state_matters,
        whole=True,
    ),
    _law(
        "runs-keep-their-own-state",
        "runs stacked on a leading axis, each with its own state, get the loss and the next state of each alone",
        "contract of rlhf_lab",
        _runs_have_their_own,
    ),
    _law(
        "controller-decides",
        "another controller makes another next state",
        "contract of rlhf_lab",
        _controller_decides,
        applies=_controlled,
        whole=True,
    ),
]
