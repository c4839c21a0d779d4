"""From a study to its arms: the common spec with overrides, crossed with the grid."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lab.errors import LabError
from rlhf_lab.study.schema import Study
from rlhf_lab.yaml_file import parse_value

__all__ = ["Arm", "assign", "expand", "flatten", "merge", "parse_assignment"]


@dataclass(frozen=True)
class Arm:
    """One arm before validation: its name, its whole spec, and what tells it from the common spec."""

    name: str
    spec: dict[str, Any]
    parameters: dict[str, Any]
    source: tuple[str, ...]  # where its overrides stand in the study file


def expand(study: Study) -> list[Arm]:
    """Return all arms of the study, named ``arm``, ``arm n=4`` or, where there is one arm, ``n=4``."""
    empty = [path for path, values in study.grid.items() if not values]
    if empty:
        raise LabError(f"grid.{empty[0]}: has no values, so the study would have no arms; give some or leave it out")
    arms = []
    for base, override in study.arms.items():
        common = merge(study.spec, override)
        for values in itertools.product(*study.grid.values()):
            spec, point = copy.deepcopy(common), dict(zip(study.grid, values, strict=True))
            for path, value in point.items():
                assign(spec, path, copy.deepcopy(value))
            label = ", ".join(_label(path, value) for path, value in point.items())
            name = label if label and len(study.arms) == 1 else " ".join(filter(None, (base, label)))
            parameters = {"arm": base, **flatten(override), **flatten(point)}
            arms.append(Arm(name, spec, parameters, ("arms", base)))
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"two arms are called {twice[0]!r}; make the grid's values differ")
    return arms


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``override`` laid over it; keys may be dotted.

    A mapping changes what it names, but one with a ``name`` is another component and replaces the old one.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in override.items():
        if isinstance(key, str) and "." in key:
            assign(merged, key, copy.deepcopy(value))
        elif isinstance(value, Mapping) and "name" not in value:
            merged[key] = merge(_parameters(merged.get(key), key), value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def assign(data: dict[str, Any], path: str, value: Any) -> None:
    """Set ``data[a][b] = value`` for the path ``a.b``; a component given by its bare name becomes a mapping."""
    *parents, leaf = path.split(".")
    for key in parents:
        data[key] = dict(_parameters(data.get(key), path))
        data = data[key]
    data[leaf] = value


def _parameters(value: Any, path: str) -> Mapping[str, Any]:
    """Return the mapping whose keys an override changes: a component may be given by its bare name, or not at all."""
    if value is None or isinstance(value, str):
        return {} if value is None else {"name": value}
    if not isinstance(value, Mapping):
        raise LabError(f"{path}: cannot change a parameter of {value!r}, which has none")
    return value


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted paths -> values; a component stands under its own path by its name."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            flat[path] = value
            continue
        if "name" in value:
            flat[path] = value["name"]
        flat.update(flatten({k: v for k, v in value.items() if k != "name"}, f"{path}."))
    return flat


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return path and value of ``a.b=value``, the value read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise LabError(f"expected PATH=VALUE, found {text!r}; for example trainer.epochs=4")
    try:
        return path.strip(), parse_value(value)
    except LabError as error:
        raise LabError(f"{path.strip()}: {error}") from None


def _label(path: str, value: Any) -> str:
    if isinstance(value, Mapping) and "name" in value:
        rest = ", ".join(f"{k}={v}" for k, v in value.items() if k != "name")
        return f"{value['name']}({rest})" if rest else str(value["name"])
    if isinstance(value, str):
        return value
    return f"{path.rpartition('.')[2]}={value:g}" if isinstance(value, float) else f"{path.rpartition('.')[2]}={value}"
