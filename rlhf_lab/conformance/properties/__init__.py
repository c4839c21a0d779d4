"""The catalogue of laws and claims, one module per role; ids are public names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions import definition
from rlhf_lab.conformance.properties.common import common_laws
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject

__all__ = ["all_properties", "oracle"]


@cache
def all_properties(role: str) -> tuple[Property, ...]:
    """Return the laws and claims of a role, laws first."""
    own: list[Property] = import_module(f"rlhf_lab.conformance.properties.{role}").PROPERTIES
    return tuple(sorted([*common_laws(role), *own], key=lambda each: each.claim))


@cache
def oracle(role: str, name: str) -> Property:
    """Return the property of being an implementation of a definition of record."""
    record = definition(role, name)

    def check(subject: Subject, case: object) -> None:
        parameters = subject.recorded_parameters(record)
        answer, due = subject(case), record.answer(case, **parameters)
        where, note = getattr(case, "valid", None), f"by the definition of {name}"
        expect_equal(answer, _defined(due, answer), where, note=note, tolerance=record.tolerance)

    id_ = f"is-{name.replace('_', '-')}"
    statement, reference = record.statement, record.reference
    return Property(id_, role, statement, reference, False, check, cases=record.cases, reads=record.reads)


def _defined(due: Mapping[str, Tensor], answer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is due, with what was answered where a definition has NaN: there every answer will do.

    A loss of record counts each step once.
    """
    if "L" in due and "weights" in answer and "weights" not in due:
        due = {**due, "weights": torch.ones_like(answer["weights"])}
    free = {s: x.isnan() for s, x in due.items() if s in answer and answer[s].shape == x.shape}
    return {s: torch.where(free[s], answer[s].to(x.dtype), x) if s in free else x for s, x in due.items()}
