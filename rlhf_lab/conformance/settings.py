"""Hyper-parameters to test with: each field's default and plain values inside its bounds.

Plain numbers come first, so that a counterexample can be checked by hand.
"""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rlhf_lab.components import Component, Slot

__all__ = ["alternatives", "settings_of"]

_FLOATS: Final = (1.0, 0.5, 0.0, 2.0, 0.25, 0.75, 0.125, 4.0)
_INTEGERS: Final = (1, 2, 0, 3, 5)


def alternatives(info: FieldInfo) -> list[Any]:
    """Return values to try for a field, plain ones first, its default among them; only the default where none is known.

    Values that the field refuses may be among them: whoever builds a component validates. A bound that a field does
    not name is guessed from its default: a whole number does not exceed it (a ddof or an n beyond it may make no
    sense), and a number without any bound is neither 0 nor larger than its default or 1.
    """
    default = info.get_default(call_default_factory=True)
    found: list[Any] = []
    for kind in _kinds(info.annotation):
        if kind is bool:
            found += [False, True]
        elif kind is float:
            bounded = any(_bound(extra) for extra in info.metadata)
            found += [x for x in _FLOATS if _inside(x, info) and (bounded or 0 < x <= max(1.0, _number(default)))]
        elif kind is int:
            found += [x for x in _INTEGERS if _inside(x, info) and _has_place(x, info, int(_number(default)))]
        elif kind is NoneType:
            found.append(None)
        elif get_origin(kind) is Literal:
            found += get_args(kind)
    if default is not PydanticUndefined and not any(type(default) is type(x) and default == x for x in found):
        found.append(default)
    return found


def _number(default: Any) -> float:
    return float(default) if isinstance(default, int | float) else 1.0


def _has_place(x: int, info: FieldInfo, default: int) -> bool:
    """Return whether a whole number lies within bounds that the field names or that its default suggests."""
    low = any(hasattr(extra, name) for extra in info.metadata for name in ("ge", "gt"))
    high = any(hasattr(extra, name) for extra in info.metadata for name in ("le", "lt"))
    return (high or x <= max(1, default)) and (low or x >= min(1, default))


def _bound(extra: Any) -> bool:
    return any(hasattr(extra, name) for name in ("ge", "gt", "le", "lt"))


def settings_of(component: type[Component]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of hyper-parameters that the class accepts; the defaults are among them.

    In a ``Slot`` stand its default and the others that it names, with their own defaults.
    """
    parts = {
        name: st.sampled_from(_of_slot(info) or alternatives(info)) for name, info in component.model_fields.items()
    }

    def accepted(values: dict[str, Any]) -> bool:
        try:
            component(**values)
        except ValidationError:
            return False
        return True

    defaults = {name: info.get_default(call_default_factory=True) for name, info in component.model_fields.items()}
    return st.one_of(st.fixed_dictionaries(parts).filter(accepted), st.just(defaults)) if parts else st.just({})


def _of_slot(info: FieldInfo) -> list[Any]:
    slots = [extra for extra in info.metadata if isinstance(extra, Slot)]
    return [info.get_default(call_default_factory=True), *slots[0].others] if slots else []


def _kinds(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _inside(x: float, info: FieldInfo) -> bool:
    for bound in info.metadata:
        low, high = getattr(bound, "ge", -math.inf), getattr(bound, "le", math.inf)
        above, below = getattr(bound, "gt", -math.inf), getattr(bound, "lt", math.inf)
        if not (low <= x <= high and above < x < below):
            return False
    return True
