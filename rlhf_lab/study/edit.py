"""Changing a study from the command line, without YAML: ``--arm``, ``--set``, ``--seeds``; and printing it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import yaml

from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry
from rlhf_lab.study.arms import assign, merge, parse_assignment
from rlhf_lab.study.schema import Study

__all__ = ["apply_settings", "edit_study", "study_yaml"]


def edit_study(
    data: Mapping[str, Any], registry: Registry, *, arms: list[str], settings: list[str], seeds: int | None
) -> dict[str, Any]:
    """Return the study with added arms and changed values.

    An added arm is the common spec with one component exchanged, crossed with the study's grid like any other arm. A
    setting's path starts in the spec (``trainer.epochs=4``), or names a key of the study (``seeds=5``).
    """
    edited = copy.deepcopy(dict(data))
    for text in arms:
        role, component = _component(text, registry)
        present = edited.setdefault("arms", {"base": {}})
        if not isinstance(present, dict):
            raise LabError(f"--arm {text}: the study's arms are {present!r}, expected a mapping")
        if text in present:
            raise LabError(f"--arm {text}: the study has an arm of that name already")
        present[text] = {role: component}
    for text in settings:
        path, value = parse_assignment(text)
        before = copy.deepcopy(edited)
        assign(edited, path if path.split(".")[0] in Study.model_fields else f"spec.{path}", value)
        if edited != before and _specs(edited) == _specs(before):
            raise LabError(f"--set {text}: changes nothing, because every arm has its own {path.split('.')[0]}")
    if seeds is not None:
        edited["seeds"] = seeds
    return edited


def _specs(study: Mapping[str, Any]) -> Any:
    """Return what decides what runs: the arms' whole specs, and all of the study but the common spec."""
    spec, arms = study.get("spec"), study.get("arms", {"base": {}})
    if not isinstance(spec, Mapping) or not isinstance(arms, Mapping):
        return study
    others = {key: value for key, value in study.items() if key != "spec"}
    return [others, *(merge(spec, arm) if isinstance(arm, Mapping) else arm for arm in arms.values())]


def apply_settings(spec: Mapping[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return the spec with each ``a.b=v`` applied."""
    edited = copy.deepcopy(dict(spec))
    for text in settings:
        assign(edited, *parse_assignment(text))
    return edited


def study_yaml(data: Mapping[str, Any]) -> str:
    """Return a study as YAML, with the line by which editors find its schema."""
    schema = "rlhf-lab-study.schema.json"
    head = f"# yaml-language-server: $schema={schema}\n# made by: rlhf-lab schema > {schema}\n"
    body: str = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)
    return head + body


def _component(text: str, registry: Registry) -> tuple[str, dict[str, Any]]:
    """Return role and mapping of ``my_gae,lam=0.9``."""
    name, *rest = re.split(r",(?![^\[{]*[\]}])", text)  # not at commas inside of brackets
    found = registry.find(name.strip())
    component: dict[str, Any] = {"name": found.name}
    for item in rest:
        assign(component, *parse_assignment(item))
    return found.role, component
