"""What a definition of record is, and where all of them are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from torch import Tensor

from rlhf_lab.conformance.property import TOLERANCE
from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["Definition", "definition", "definitions"]

_ROLES: Final = (
    "advantage",
    "normalizer",
    "objective",
    "value",
    "kl",
    "aggregation",
    "controller",
    "preference",
    "reward_model",
)


@dataclass(frozen=True)
class Definition:
    """What a name means: parameters with their defaults, and the exact answer to any inputs of the role.

    ``answer(inputs, **parameters)`` maps the symbols of the role's answer (``A``, ``returns``, ``L``, ``dL/dlog_probs``
    ...) to tensors; a symbol that it leaves out is not defined, nor is a number that is NaN (a gradient at a kink).
    ``reads`` names the optional fields that it needs; ``cases`` are its own where those of the role are too wide;
    ``tolerance`` is that of ``expect_equal``.
    """

    role: str
    name: str
    statement: str
    reference: str
    parameters: Mapping[str, Any]
    answer: Callable[..., Mapping[str, Tensor]]
    reads: frozenset[str] = frozenset()
    tolerance: float = TOLERANCE
    cases: Any = None


@cache
def definitions(role: str) -> Mapping[str, Definition]:
    """Return the definitions of record of a role by name."""
    if role not in _ROLES:
        return {}
    found: list[Definition] = import_module(f"rlhf_lab.conformance.definitions.{role}").DEFINITIONS
    return {each.name: each for each in found}


def definition(role: str, name: str) -> Definition:
    """Return one definition of record; raises ``LabError`` where there is none of that name."""
    known = definitions(role)
    if name not in known:
        raise LabError(f"there is no definition of record {name!r} for role {role}. {did_you_mean(name, known)}")
    return known[name]
