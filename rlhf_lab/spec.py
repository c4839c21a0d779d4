"""The spec of one training run: one component per role, composed and checked before anything runs.

Requirements this file meets:
- errors name the dotted path (``objective.kl.coef``), the place in the file (``file.yaml:6:18``) and the nearest name;
- unknown keys, and keys that nothing in the composition uses, are refused, never ignored;
- what a component needs and nobody provides is refused, saying who needs it and which component would provide it;
- there is one discount: ``gamma`` reaches every component that has not set its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

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
    PreferenceData,
    PreferenceObjective,
    RewardObjective,
    Slot,
    Trainer,
    ValueObjective,
)
from rlhf_lab.errors import LabError, describe, located
from rlhf_lab.registry import Registry
from rlhf_lab.yaml_file import Positions, load_yaml

__all__ = ["Budget", "ExactSettings", "Positions", "RunSpec", "load_yaml", "make_spec"]

DISCOUNTED: Final = ("environment", "advantage", "normalizer", "trainer")
IMPLIED: Final = {"value": frozenset({"values"}), "kl": frozenset({"ref_log_probs"})}  # needs of a role as such
EXACT: Final = ("advantage", "normalizer", "objective")  # what the exact measures compose, where there is no trainer
COMPOSED: Final = (
    "advantage",
    "normalizer",
    "objective",
    "value",
    "kl",
    "aggregation",
    "controller",
    "optimizer",
    "data",
    "preference",
    "reward_model",
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
    """How exact errors (``estimator_error``, ``gradient_error``, ``gradient_along``) look at the world. No sampling."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizon: int = Field(default=8, ge=1, description="steps of the enumerated window; longer episodes are cut there")
    samples: int = Field(default=1, ge=1, description="episodes per outcome, for estimators that compare several")
    starts: int | None = Field(
        default=None,
        ge=1,
        description="enumerate from so many start states only, for data and truth alike: drawn without replacement in "
        "proportion to the start distribution, the same for every arm and seed, each equally likely afterwards; None: "
        "the start distribution as it is",
    )
    beyond: Literal["critic", "value"] = Field(
        default="critic",
        description="what stands for the steps after a cut. critic: the episode is truncated, and an estimator that "
        "asks sees the critic's value there; value: it ends with the exact value of the policy that acts, paid in the "
        "last step, so that a critic's error counts within the window only",
    )
    critic: Literal["exact", "zero"] = Field(
        default="exact",
        description="values that the critic has without its error; along a run the critic is the run's own",
    )
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
    data: Annotated[PreferenceData, Slot("data")] | None = None
    preference: Annotated[PreferenceObjective, Slot("preference")] | None = None
    reward_model: Annotated[RewardObjective, Slot("reward_model")] | None = None
    gamma: float = Field(
        default=0.99,
        ge=0,
        le=1,
        description="discount per step, for every component that has one; left out, it is 1 in an undiscounted world",
    )
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
    spec, warnings = _spread_gamma(_with_defaults(spec, registry))
    problems = [*_unused(spec), *_missing(spec, registry)]
    if problems:  # each begins with a dotted path
        raise LabError("\n".join(located(text, tuple(text.partition(":")[0].split(".")), where) for text in problems))
    return spec, warnings + _warnings(spec)


def _spread_gamma(spec: RunSpec) -> tuple[RunSpec, list[str]]:
    """Give the spec's discount to every component that has not set its own; another one warns."""
    changed: dict[str, Any] = {}
    warnings = []
    if spec.environment.undiscounted and "gamma" not in spec.model_fields_set:
        spec = spec.model_copy(update={"gamma": 1.0})
    for role in DISCOUNTED:
        component = getattr(spec, role)
        if component is None or "gamma" not in type(component).model_fields:
            continue
        if "gamma" not in component.model_fields_set:
            changed[role] = _with_gamma(component, spec.gamma)
        elif component.gamma != spec.gamma:
            warnings.append(
                f"{role} {component.name!r} has gamma {component.gamma:g}, but the spec's is {spec.gamma:g}; "
                "set gamma once, at the top of the spec, unless this is meant"
            )
    if changed and spec.environment.undiscounted and spec.gamma != 1:
        warnings.append(
            f"gamma: is {spec.gamma:g}, but environment {spec.environment.name!r} is judged without discount; leave it "
            "out, unless this is meant"
        )
    return spec.model_copy(update=changed), warnings


def _with_gamma(component: Component, gamma: float) -> Component:
    """Return the component with the spec's discount, if its own bounds allow that one."""
    own = {name: getattr(component, name) for name in component.model_fields_set}
    try:
        return type(component).model_validate({**own, "gamma": gamma})
    except ValidationError as error:
        raise LabError(f"{describe(error, prefix=(component.role,))} (the spec's gamma)") from None


def _with_defaults(spec: RunSpec, registry: Registry) -> RunSpec:
    """Fill in what the spec leaves to the trainer, and the aggregation that defines the objective."""
    if spec.trainer is None:
        return spec
    names = dict(spec.trainer.defaults)
    if spec.objective is not None and "aggregation" in spec.trainer.uses:
        names["aggregation"] = spec.objective.aggregations[0]
    absent = {role: name for role, name in names.items() if getattr(spec, role) is None}
    return spec.model_copy(update={role: registry.create(role, name) for role, name in absent.items()})


def _unused(spec: RunSpec) -> list[str]:
    if spec.trainer is None:
        return [
            f"{role}: nothing uses it without a trainer; exact measures use: {', '.join(EXACT)}"
            for role in spec.components
            if role not in EXACT
        ]
    uses = spec.trainer.uses
    problems = [
        f"{role}: trainer {spec.trainer.name!r} does not use it; it uses: {', '.join(sorted(uses)) or 'nothing'}"
        for role in spec.components
        if role not in uses
    ]
    absent = [role for role, needed in uses.items() if needed and role not in spec.components]
    problems += spec.trainer.problems(spec.components)
    if getattr(spec.optimizer, "critic_lr", None) is not None and "values" not in spec.policy.gives():
        problems.append(f"optimizer.critic_lr: policy {spec.policy.name!r} has no critic here; leave it out")
    problems += [f"{role}: trainer {spec.trainer.name!r} needs one; add `{role}: NAME`" for role in absent]
    return problems


def _missing(spec: RunSpec, registry: Registry) -> list[str]:
    if spec.trainer is None:
        return []  # exact measures take everything from the world itself
    givers: list[Environment | Policy | Trainer | PreferenceData] = [spec.environment, spec.policy, spec.trainer]
    by_policy, asked = spec.policy.gives(), spec.trainer.asks
    given = spec.environment.gives() | spec.trainer.gives() | (by_policy if asked is None else by_policy & asked)
    if spec.data is not None:
        givers.append(spec.data)
        given |= spec.data.gives()
    configured = " nor ".join(f"{giver.role} {giver.name!r}" for giver in givers)
    return [
        f"{role}: {component.name!r} needs {name}, which neither {configured} provides as configured. "
        + _providers(name, registry)
        for role, component in [*spec.components.items(), ("trainer", spec.trainer)]
        for name in sorted((component.needs() | IMPLIED.get(role, frozenset())) - given)
    ]


def _providers(name: str, registry: Registry) -> str:
    """Return who gives ``name``: always, as it comes, or with an option."""
    found = [
        f"{component.role} {component.name!r}"
        for role in ("environment", "policy", "trainer", "data")
        for component in registry.components(role)
        if name in getattr(component, "provides", ()) or name in component().gives()  # type: ignore[attr-defined]
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
