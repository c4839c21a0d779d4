"""Changing a study from the command line, without YAML: ``--arm``, ``--set``, ``--seeds``; and printing it.

What was typed is not in the file: ``study_places`` and ``spec_places`` say so to whoever has to complain about it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry
from rlhf_lab.study.arms import assign, flatten, merge, parse_assignment, stages_of
from rlhf_lab.study.schema import Study
from rlhf_lab.yaml_file import Positions

__all__ = ["apply_settings", "component_of", "edit_study", "spec_places", "study_places", "study_yaml"]


def edit_study(
    data: Mapping[str, Any], registry: Registry, *, arms: list[str], settings: list[str], seeds: int | None
) -> dict[str, Any]:
    """Return the study with added arms and changed values.

    An added arm is the common spec with one component exchanged, crossed with the study's grid like any other arm. A
    setting's path starts in the spec (``trainer.epochs=4``), or names a key of the study (``seeds=5``).
    """
    edited = copy.deepcopy(dict(data))
    for text in arms:
        try:
            role, component = component_of(text, registry)
        except LabError as error:
            raise LabError(f"--arm {text}: {error}") from None
        present = edited.setdefault("arms", {"base": {}})
        if not isinstance(present, dict):
            raise LabError(f"--arm {text}: the study's arms are {present!r}, expected a mapping")
        if text in present:
            raise LabError(f"--arm {text}: the study has an arm of that name already")
        present[text] = {role: component}
    for text in settings:
        before = copy.deepcopy(edited)
        path = _set(edited, text, _study_path)
        if edited != before and _specs(edited) == _specs(before):
            part = path.removeprefix("spec.").partition(".")[0]
            raise LabError(f"--set {text}: changes nothing, because every arm has its own {part}")
    if seeds is not None:
        edited["seeds"] = seeds
    return edited


def _specs(study: Mapping[str, Any]) -> Any:
    """Return what decides what runs: the arms' whole specs and measures, and all of the study but what arms inherit."""
    spec, arms = study.get("spec"), study.get("arms", {"base": {}})
    if not isinstance(spec, Mapping) or not isinstance(arms, Mapping):
        return study
    others = {key: value for key, value in study.items() if key not in ("spec", "measure")}
    measures = [arm.get("measure", study.get("measure")) for arm in arms.values() if isinstance(arm, Mapping)]
    return [others, measures, *(whole for arm in arms.values() for whole in _stages(spec, arm))]


def _stages(spec: Mapping[str, Any], arm: Any) -> list[Any]:
    """Return the whole specs of an arm's stages, or its only one; an arm that is none is complained about later."""
    if not isinstance(arm, Mapping):
        return [arm]
    whole = merge(spec, arm)
    try:
        return [stage.spec for stage in stages_of(whole, ("arms",), {})]
    except LabError:
        return [arm]


def apply_settings(spec: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return the spec with each ``a.b=v`` applied."""
    edited = copy.deepcopy(dict(spec))
    for text in settings:
        _set(edited, text)
    return edited


def study_places(
    where: Positions, edited: Mapping[str, Any], *, arms: list[str], settings: list[str], seeds: int | None
) -> Positions:
    """Return where each key of the edited study stands: in the file, or in the option by which it was given."""
    places = dict(where)
    present = edited["arms"] if isinstance(edited.get("arms"), Mapping) else {}
    for text in arms:
        added = present.get(text)  # a setting may have made anything of it
        for path in flatten(added) if isinstance(added, Mapping) else ():
            places["arms", text, *path.split(".")] = f"--arm {text}"
    for text in settings:
        _replace(places, _study_path(parse_assignment(text)[0]), f"--set {text}")
    if seeds is not None:
        _replace(places, "seeds", f"--seeds {seeds}")
    return places


def spec_places(where: Positions, settings: list[str]) -> Positions:
    """Return where each key of the spec stands after ``apply_settings``; as ``study_places``."""
    places = dict(where)
    for text in settings:
        _replace(places, parse_assignment(text)[0], f"--set {text}")
    return places


def study_yaml(data: Mapping[str, Any]) -> str:
    """Return a study as YAML, with the line by which editors find its schema."""
    schema = "rlhf-lab-study.schema.json"
    head = f"# yaml-language-server: $schema={schema}\n# made by: rlhf-lab schema > {schema}\n"
    body: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)
    return head + body


def _study_path(path: str) -> str:
    """Return where in the study a setting's path leads."""
    return path if path.split(".")[0] in Study.model_fields else f"spec.{path}"


def _set(data: dict[str, Any], text: str, full: Callable[[str], str] = str) -> str:
    """Apply the setting and return its path."""
    try:
        path, value = parse_assignment(text)
        assign(data, full(path), value)
    except LabError as error:
        raise LabError(f"--set {text}: {error}") from None
    return full(path)


def _replace(places: dict[tuple[str, ...], str], path: str, option: str) -> None:
    """Let the path, and all that the file has below it, stand in the option."""
    keys = tuple(path.split("."))
    for key in [key for key in places if key[: len(keys)] == keys]:
        del places[key]
    places[keys] = option
    if keys[-1] == "name":
        places[keys[:-1]] = option  # a name that nobody has is complained about where the component stands


def component_of(text: str, registry: Registry) -> tuple[str, dict[str, Any]]:
    """Return role and mapping of ``my_gae,lam=0.9``."""
    name, *rest = re.split(r",(?![^\[{]*[\]}])", text)  # not at commas inside of brackets
    found = registry.find(name.strip())
    component: dict[str, Any] = {"name": found.name}
    for item in rest:
        assign(component, *parse_assignment(item))
    return found.role, component
