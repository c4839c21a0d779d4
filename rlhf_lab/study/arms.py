"""From a study to its arms: the common spec with overrides, crossed with the grid; an arm's stages and measures."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lab.errors import LabError, located
from rlhf_lab.study.schema import Study, wrong_measure
from rlhf_lab.yaml_file import Positions, parse_value

__all__ = ["Arm", "Stage", "assign", "check_stages", "expand", "flatten", "merge", "parse_assignment", "stages_of"]

Path = tuple[str, ...]  # of keys


@dataclass(frozen=True)
class Stage:
    """One training run of an arm before validation: its name, empty where the arm has no other, and its whole spec."""

    name: str
    spec: dict[str, Any]
    sources: tuple[Path, ...]  # where its keys stand in the study file; what stands in a later one counts


@dataclass(frozen=True)
class Arm:
    """One arm before validation: its name, its stages in order, what tells it from the common spec, what to measure."""

    name: str
    stages: tuple[Stage, ...]
    parameters: dict[str, Any]
    measure: frozenset[str]


def expand(study: Study, where: Positions | None = None) -> list[Arm]:
    """Return all arms of the study, named ``arm``, ``arm n=4`` or, where there is one arm, ``n=4``.

    ``stages: {name: overrides, ...}`` in the common spec or in an arm makes each stage a spec of its own: the arm's
    with the stage's overrides, which the grid reaches as ``stages.NAME.path``. ``measure: [...]`` in an arm replaces
    what the study measures; raises ``LabError`` where that is no list of measures.
    """
    empty = [path for path, values in study.grid.items() if not values]
    if empty:
        raise LabError(f"grid.{empty[0]}: has no values, so the study would have no arms; give some or leave it out")
    arms = []
    for base, own in study.arms.items():
        measure = _measures(own, study, base, where or {})
        override = {key: value for key, value in own.items() if key != "measure"}
        common = merge(study.spec, override)
        for values in itertools.product(*study.grid.values()):
            spec, point = copy.deepcopy(common), dict(zip(study.grid, values, strict=True))
            for path, value in point.items():
                assign(spec, path, copy.deepcopy(value))
            label = ", ".join(_label(path, value) for path, value in point.items())
            name = label if label and len(study.arms) == 1 else " ".join(filter(None, (base, label)))
            parameters = {"arm": base, **flatten(override), **flatten(point)}
            arms.append(Arm(name, stages_of(spec, ("arms", base), where or {}), parameters, measure))
    names = [arm.name for arm in arms] + [
        f"{arm.name}/{stage.name}" for arm in arms for stage in arm.stages if stage.name
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"two arms are called {twice[0]!r}; make the grid's values differ, or rename one")
    return arms


def stages_of(spec: dict[str, Any], arm: Path, where: Positions) -> tuple[Stage, ...]:
    """Return the stages of an arm's spec, which is itself the only one where it names none."""
    stages = spec.pop("stages", None)
    own = (("spec",), arm)
    if stages is None:
        return (Stage("", spec, own),)
    path = next(((*source, "stages") for source in reversed(own) if (*source, "stages") in where), (*arm, "stages"))
    return tuple(
        Stage(name, merge(spec, overrides), (*own, *((*source, "stages", name) for source in own)))
        for name, overrides in check_stages(stages, path, where).items()
    )


def _measures(arm: Mapping[str, Any], study: Study, name: str, where: Positions) -> frozenset[str]:
    """Return what is measured of an arm: what it names itself, or else what the study does."""
    if "measure" not in arm:
        return frozenset(study.measure)
    own, path = arm["measure"], ("arms", name, "measure")
    listed = isinstance(own, list | tuple) and len(own) > 0
    if wrong := wrong_measure(own) if listed else f"expected a list of measures, found {own!r}":
        raise LabError(located(f"arms.{name}.measure: {wrong}", path, where))
    return frozenset(own)


def check_stages(stages: Any, path: Path, where: Positions) -> Mapping[str, Any]:
    """Return the stages that stand under ``path``; raises ``LabError`` where they are none."""
    shown = ".".join(path)
    if not isinstance(stages, Mapping) or not stages:
        raise LabError(located(f"{shown}: expected {{name: overrides, ...}}, found {stages!r}", path, where))
    for name, overrides in stages.items():
        if not isinstance(overrides, Mapping):
            message = f"{shown}.{name}: expected a mapping of overrides, found {overrides!r}"
            raise LabError(located(message, (*path, str(name)), where))
    return stages


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
