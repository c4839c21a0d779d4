"""Laws about what is declared: every hyper-parameter and every required field changes some answer."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import torch

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.properties.shared import ALL, ITEMS, Law, plain
from rlhf_lab.conformance.property import Property, Violation, expect_equal
from rlhf_lab.conformance.settings import alternatives
from rlhf_lab.conformance.subject import RefusedError, Subject, UnansweredError, UnjudgedError

__all__ = ["LAWS"]

_WITHIN_ONE: Final = ("preference_prob", "targets")  # a probability, or what may be meant as one


def _answered(cases: list[tuple[Subject, Any]]) -> list[tuple[Subject, Any]]:
    """Return the cases that have an answer; where there is none nothing can be said of what it rests on."""
    found = []
    for subject, case in cases:
        with suppress(UnjudgedError, RefusedError):
            subject(case)
            found.append((subject, case))
    if not found:
        raise UnjudgedError
    return found


def _parameters_matter(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    cases = _answered(cases)
    for name, info in type(subject.component).model_fields.items():
        others = [value for value in alternatives(info) if value is not None]
        if len(others) < 2 or any(_differs(each, case, name, others) for each, case in cases[::-1]):
            continue
        # at some settings a parameter is idle, as `clip` of PPO is where both sides are set, or that of a form which
        # another parameter has to choose: then the defaults decide, also with another word or flag among them
        settings = [{}, *_choices(type(subject.component), name)]
        if not any(
            _differs(_at_defaults(each, case, **setting), case, name, others)
            for setting in settings
            for each, case in cases[::-1]
        ):
            raise Violation(f"{name} changes no answer to {len(cases)} cases", "a parameter that is read, or none")


def _choices(component: type[Component], besides: str) -> list[dict[str, Any]]:
    """Return settings that differ from the defaults in one word or flag."""
    known = {name: alternatives(info) for name, info in component.model_fields.items() if name != besides}
    words = {name: values for name, values in known.items() if all(isinstance(x, str | bool) for x in values)}
    return [{name: value} for name, values in words.items() for value in values]


def _at_defaults(subject: Subject, case: Any, **setting: Any) -> Subject:
    return Subject(type(subject.component)(**setting), subject.view, subject.guard, case)


def _differs(subject: Subject, case: Any, name: str, others: list[Any]) -> bool:
    component = subject.component
    values = {field: getattr(component, field) for field in type(component).model_fields}
    for other in others:
        try:
            changed = type(component)(**{**values, name: other})
            found = Subject(changed, subject.view, subject.guard)(case)
            expect_equal(found, plain(subject(case)), getattr(case, "valid", None), tolerance=1e-12)
        except Violation:
            return True
        except (ValueError, UnjudgedError, RefusedError):
            continue
    return False


def _fields_matter(subject: Subject, cases: list[tuple[Subject, Any]]) -> None:
    cases = _answered(cases)
    for name in sorted(subject.component.needs()):
        if name in ("state", "uniforms"):
            continue
        if any(_reads(each, case, name) for each, case in cases[::-1]):
            continue
        # as with parameters: the old values of a clipped loss are idle where the clip is infinite
        if not any(_reads(_at_defaults(each, case), case, name) for each, case in cases[::-1]):
            raise Violation(f"{name} changes no answer to {len(cases)} cases", f"{name} read, or not required")


def _reads(subject: Subject, case: Any, name: str) -> bool:
    found = getattr(case, name, None)
    if found is None:
        return False
    numbers = torch.arange(found.numel()).view(found.shape)
    changed = (found.flip(0) + 1) * 7 if not found.is_floating_point() else found + 0.5 + 0.25 * (numbers % 3)
    if found.dtype == torch.bool:
        changed = ~found
    if name in _WITHIN_ONE:
        changed = (found + 0.25 + 0.125 * (numbers % 3)) % 1
    if name == "group_ids":
        changed = torch.zeros_like(found) if bool((found != found[0]).any()) else numbers
    try:
        after = subject(with_fields(case, {name: changed}))
        expect_equal(after, plain(subject(case)), getattr(case, "valid", None), tolerance=1e-12)
    except UnansweredError:
        return False
    except Violation:
        return True
    except (ValueError, UnjudgedError, RefusedError):
        return False
    return False


def _has_parameters(component: Component) -> str | None:
    return None if type(component).model_fields else "it has no hyper-parameters"


def _has_needs(component: Component) -> str | None:
    return None if component.needs() - {"state", "uniforms"} else "it requires no optional field"


LAWS: Final[list[Law]] = [
    (
        ALL,
        Property(
            "parameters-matter",
            "",
            "every hyper-parameter changes the answer to some batch, at this setting or at the defaults",
            "axolotl issue 3731; cleanrl 203",
            False,
            _parameters_matter,
            applies=_has_parameters,
            whole=True,
        ),
    ),
    (
        ("advantage", "normalizer", "objective", "value", *ITEMS),
        Property(
            "required-fields-matter",
            "",
            "every required field changes the answer to some batch, at this setting or at the defaults",
            "tensorforce issue 312; tensorflow/agents 352",
            False,
            _fields_matter,
            applies=_has_needs,
            whole=True,
        ),
    ),
]
