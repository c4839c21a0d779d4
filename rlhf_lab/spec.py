"""The spec of one training run: one component per role, composed and checked before anything runs.

Requirements this file meets:
- errors name the dotted path (``objective.kl.coef``), the place in the file (``file.yaml:6:18``) and the nearest name;
- unknown keys, and keys that nothing in the composition uses, are refused, never ignored;
- what a component needs and nobody provides is refused, saying who needs it and which component would provide it;
- there is one discount: ``gamma`` reaches every component that has not set its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlhf_lab.components import (
    AdvantageEstimator,
    AdvantageNormalizer,
    Aggregation,
    Component,
    Controller,
    Environment,
    KLEstimator,
    Optimizer,
    Policy,
    PolicyObjective,
    Slot,
    Trainer,
    ValueObjective,
)
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry, describe

__all__ = ["Budget", "ExactSettings", "Positions", "RunSpec", "load_yaml", "make_spec"]

Positions = Mapping[tuple[str, ...], str]
"""Where each key of a file stands: path of keys -> ``file.yaml:line:column``."""

DISCOUNTED: Final = ("environment", "advantage", "normalizer", "trainer")
IMPLIED: Final = {"value": frozenset({"values"}), "kl": frozenset({"ref_log_probs"})}  # needs of a role as such
COMPOSED: Final = (
    "advantage",
    "normalizer",
    "objective",
    "value",
    "kl",
    "aggregation",
    "controller",
    "optimizer",
)


class Budget(BaseModel):
    """How long to train: exactly one of iterations, environment steps or episodes, each per seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    iterations: int | None = Field(default=None, ge=1, description="iterations of the trainer")
    steps: int | None = Field(default=None, ge=1, description="environment steps per seed")
    episodes: int | None = Field(default=None, ge=1, description="episodes per seed")

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = {unit: n for unit, n in self if n is not None}
        if len(given) != 1:
            raise ValueError(f"give exactly one of iterations, steps, episodes; found {given or 'none'}")
        return self

    @property
    def unit(self) -> str:
        """The unit that is counted."""
        return next(unit for unit, n in self if n is not None)

    @property
    def amount(self) -> int:
        """How many units."""
        amount: int = getattr(self, self.unit)
        return amount


class ExactSettings(BaseModel):
    """How the exact measures (``estimator_error``, ``gradient_error``) look at the world. No sampling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizon: int = Field(default=8, ge=1, description="steps of the enumerated window; longer episodes are cut there")
    samples: int = Field(default=1, ge=1, description="episodes per outcome, for estimators that compare several")
    critic_error: float = Field(
        default=0.0, ge=0, description="root mean square of the critic's error, in units of the values' own"
    )


class RunSpec(BaseModel):
    """One training run: environment, policy, trainer and the components that the trainer composes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    environment: Annotated[Environment, Slot("environment")]
    policy: Annotated[Policy, Slot("policy")]
    trainer: Annotated[Trainer, Slot("trainer")] | None = None
    advantage: Annotated[AdvantageEstimator, Slot("advantage")] | None = None
    normalizer: Annotated[AdvantageNormalizer, Slot("normalizer")] | None = None
    objective: Annotated[PolicyObjective, Slot("objective")] | None = None
    value: Annotated[ValueObjective, Slot("value")] | None = None
    kl: Annotated[KLEstimator, Slot("kl")] | None = None
    aggregation: Annotated[Aggregation, Slot("aggregation")] | None = None
    controller: Annotated[Controller, Slot("controller")] | None = None
    optimizer: Annotated[Optimizer, Slot("optimizer")] | None = None
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step, for every component that has one")
    budget: Budget = Field(default=Budget(iterations=100), description="how long to train")
    record_every: int = Field(default=1, ge=1, description="iterations between recorded points")
    exact: ExactSettings = Field(default=ExactSettings(), description="settings of the exact measures")

    @property
    def components(self) -> dict[str, Component]:
        """The composed components that are given, by role."""
        return {role: getattr(self, role) for role in COMPOSED if getattr(self, role) is not None}


def make_spec(data: Mapping[str, Any], registry: Registry, where: Positions | None = None) -> tuple[RunSpec, list[str]]:
    """Return the checked spec and warnings; raises ``LabError`` that lists everything wrong with it."""
    try:
        spec = RunSpec.model_validate(data, context={"registry": registry})
    except ValidationError as error:
        raise LabError(describe(error, fields=RunSpec.model_fields, where=where)) from None
    spec, warnings = _spread_gamma(_with_aggregation(spec, registry))
    problems = [*_unused(spec), *_missing(spec, registry)]
    if problems:
        raise LabError("\n".join(problems))
    return spec, warnings + _warnings(spec)


def load_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """Return the mapping in a YAML file and where its keys stand; raises ``LabError`` for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"cannot read {path}: {error}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LabError(f"{path} is no YAML: {error}") from None
    if not isinstance(data, dict) or node is None:
        raise LabError(f"{path}: expected a mapping of keys at the top, found {type(data).__name__}")
    positions: dict[tuple[str, ...], str] = {}
    _walk(node, (), str(path), positions)
    return data, positions


def _walk(node: yaml.Node, path: tuple[str, ...], file: str, positions: dict[tuple[str, ...], str]) -> None:
    positions.setdefault(path, f"{file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}")
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _walk(item, (*path, str(i)), file, positions)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            place = f"{file}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise LabError(f"{place}: a key must be a word, found a {key.id}")
            if key.value in seen:
                raise LabError(f"{place}: the key {key.value!r} stands twice; keep one")
            seen.add(key.value)
            positions[(*path, key.value)] = place
            _walk(value, (*path, key.value), file, positions)


def _spread_gamma(spec: RunSpec) -> tuple[RunSpec, list[str]]:
    """Give the spec's discount to every component that has not set its own; another one warns."""
    changed: dict[str, Component] = {}
    warnings = []
    for role in DISCOUNTED:
        component = getattr(spec, role)
        if component is None or "gamma" not in type(component).model_fields:
            continue
        if "gamma" not in component.model_fields_set:
            changed[role] = component.model_copy(update={"gamma": spec.gamma})
        elif component.gamma != spec.gamma:
            warnings.append(
                f"{role} {component.name!r} has gamma {component.gamma:g}, but the spec's is {spec.gamma:g}; "
                "set gamma once, at the top of the spec, unless this is meant"
            )
    return spec.model_copy(update=changed), warnings


def _with_aggregation(spec: RunSpec, registry: Registry) -> RunSpec:
    """Fill in the aggregation that defines the objective, where the spec names none."""
    used = spec.trainer is None or "aggregation" in spec.trainer.uses
    if spec.aggregation is not None or spec.objective is None or not used:
        return spec
    return spec.model_copy(update={"aggregation": registry.create("aggregation", spec.objective.aggregations[0])})


def _unused(spec: RunSpec) -> list[str]:
    if spec.trainer is None:
        return []
    uses = spec.trainer.uses
    problems = [
        f"{role}: trainer {spec.trainer.name!r} does not use it; it uses: {', '.join(sorted(uses)) or 'nothing'}"
        for role in spec.components
        if role not in uses
    ]
    absent = [role for role, needed in uses.items() if needed and role not in spec.components]
    problems += spec.trainer.problems(spec.components)
    problems += [f"{role}: trainer {spec.trainer.name!r} needs one; add `{role}: NAME`" for role in absent]
    return problems


def _missing(spec: RunSpec, registry: Registry) -> list[str]:
    givers: list[Environment | Policy | Trainer] = [spec.environment, spec.policy]
    if spec.trainer is not None:
        givers.append(spec.trainer)
    given = frozenset().union(*(giver.gives() for giver in givers))
    problems = []
    for role, component in [*spec.components.items(), *([("trainer", spec.trainer)] if spec.trainer else [])]:
        lacking = component.needs() | IMPLIED.get(role, frozenset())
        lacking = (
            frozenset() if spec.trainer is None else lacking - given
        )  # exact measures take all from the world itself
        for name in sorted(lacking):
            problems.append(
                f"{role} {component.name!r} needs {name}, which neither "
                f"{' nor '.join(f'{g.role} {g.name!r}' for g in givers)} provides as configured. {_providers(name, registry)}"
            )
    return problems


def _providers(name: str, registry: Registry) -> str:
    found = [
        f"{component.role} {component.name!r}"
        for role in ("environment", "policy", "trainer")
        for component in registry.components(role)
        if name in getattr(component, "provides", ())
    ]
    return f"It can come from: {', '.join(found)}." if found else "No registered component provides it."


def _warnings(spec: RunSpec) -> list[str]:
    found = [] if spec.trainer is None else spec.trainer.warnings(spec.components)
    if spec.objective is None or spec.aggregation is None or spec.aggregation.name in spec.objective.aggregations:
        return found
    return [
        *found,
        f"objective {spec.objective.name!r} is defined with aggregation {' or '.join(spec.objective.aggregations)}; "
        f"{spec.aggregation.name!r} makes another objective of it",
    ]
