"""Components: one frozen pydantic class each, with hyper-parameters as fields and pure math in ``__call__``.

Requirements this file meets:
- ``MyGAE(lam=0.9)(batch)`` works without registry and YAML; ``{"name": ..., **fields}`` serialises it;
- what a component is (role, name, needs, claims, scope) stands in unannotated class variables, checked with the class;
- a component may hold another through ``Slot(role)``, which asks the registry of the validation context for the name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, get_args

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_serializer
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema
from torch import Tensor

from rlhf_lab.errors import complaint
from rlhf_lab.types import (
    Advantages,
    Loss,
    PolicyBatch,
    Rankings,
    Scores,
    Trajectories,
    ValueBatch,
    Weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rlhf_lab.random import Streams
    from rlhf_lab.training.candidates import Candidates
    from rlhf_lab.training.protocols import Actor, BuiltEnvironment, Learner, Setup, Spaces

__all__ = [
    "AdvantageEstimator",
    "AdvantageNormalizer",
    "Aggregation",
    "Component",
    "Controller",
    "Environment",
    "Executor",
    "KLEstimator",
    "Optimizer",
    "Policy",
    "PolicyObjective",
    "PreferenceData",
    "PreferenceObjective",
    "RewardFunction",
    "RewardObjective",
    "Slot",
    "Tracker",
    "Trainer",
    "ValueObjective",
]

Scope = Literal["step", "item", "episode", "group", "batch"]
SCOPES: Final = get_args(Scope)


class Component(BaseModel):
    """Base of every component. Subclass a role's base class, not this one."""

    # an infinite parameter makes sense only where it is a limit that nothing reaches; such a field allows it itself
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )

    role: ClassVar[str]
    name: ClassVar[str]
    reference: ClassVar[str] = ""
    requires: ClassVar[frozenset[str]] = frozenset()
    claims: ClassVar[frozenset[str]] = frozenset()
    implements: ClassVar[str | None] = None
    conventions: ClassVar[Mapping[str, object]] = {}
    scope: ClassVar[Scope] = "step"
    stacked: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        annotated = sorted(cls.__class_vars__ & cls.model_fields.keys())
        if annotated:
            raise TypeError(
                f"{cls.__qualname__}: {annotated[0]!r} is metadata and must not be annotated; "
                f"write `{annotated[0]} = ...` instead of `{annotated[0]}: ... = ...`"
            )
        if not hasattr(cls, "name"):
            return  # an intermediate base class
        bare = [name for name, info in cls.model_fields.items() if info.is_required()]
        if bare:
            raise TypeError(f"{cls.__qualname__}: hyper-parameter {bare[0]!r} has no default; give it one")
        if cls.scope not in SCOPES:
            raise TypeError(f"{cls.__qualname__}: scope {cls.scope!r} is none of {', '.join(SCOPES)}")
        for collection in ("requires", "claims", "provides", "aggregations"):
            if isinstance(found := getattr(cls, collection, ()), str):
                raise TypeError(f"{cls.__qualname__}: {collection} is the text {found!r}; write a collection of names")

    def needs(self) -> frozenset[str]:
        """Return the optional batch fields that this instance reads; override where that depends on parameters."""
        return type(self).requires

    def files(self) -> Sequence[Path]:
        """Return the files whose content it learns from or judges by; a run directory refuses to go on with others."""
        return ()

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        """Return what forces each implementation of the same math, by name; verification compares their answers."""
        return {}

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"name": type(self).name, **handler(self)}


class AdvantageEstimator(Component):
    """How good was each action? Raw: never normalised inside, unless that is the definition (GRPO)."""

    role = "advantage"
    scope: ClassVar[Scope] = "episode"

    @abstractmethod
    def __call__(self, batch: Trajectories) -> Advantages: ...


class AdvantageNormalizer(Component):
    """Shifts and scales advantages before the objective sees them."""

    role = "normalizer"
    scope: ClassVar[Scope] = "batch"

    @abstractmethod
    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages: ...


class _Objective(Component):
    """What losses that train a policy or a reward model share: they may keep a state from step to step."""

    def initial_state(self) -> dict[str, Tensor]:
        """Return a stateful loss's state before the first step; the runner passes it as ``batch.state``."""
        return {}

    def next_state(self, state: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state after a batch, from the reduced metrics of the last epoch over it. Pure."""
        return dict(state)


class PolicyObjective(_Objective):
    """A policy loss per step, to be minimised.

    ``aggregations`` names those under which it is what its paper defines, the usual one first; another warns.
    """

    role = "objective"
    aggregations: ClassVar[tuple[str, ...]] = ("token_mean",)

    @abstractmethod
    def __call__(self, batch: PolicyBatch) -> Loss: ...


class ValueObjective(Component):
    """A critic loss per step, to be minimised."""

    role = "value"

    @abstractmethod
    def __call__(self, batch: ValueBatch) -> Loss: ...


class KLEstimator(Component):
    """A per-step estimate of KL(policy || reference), from actions or, on a trailing axis, from whole distributions."""

    role = "kl"
    distributions: ClassVar[bool] = False  # True: arguments carry a trailing action axis of log-probabilities

    @abstractmethod
    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor: ...


class Aggregation(Component):
    """How per-step losses become one loss per run."""

    role = "aggregation"
    scope: ClassVar[Scope] = "episode"

    @abstractmethod
    def __call__(self, valid: Tensor, ends: Tensor) -> Weights: ...


class Controller(Component):
    """How a coefficient follows an observed quantity. Pure; elementwise over runs."""

    role = "controller"

    @abstractmethod
    def __call__(self, coefficient: Tensor, observed: Tensor) -> Tensor: ...


class PreferenceObjective(_Objective):
    """A loss on ranked, labelled or scored responses, to be minimised.

    ``max_candidates`` is how many responses to a prompt it takes: 2 = pairs and nothing else, None = any number.
    """

    role = "preference"
    scope: ClassVar[Scope] = "item"
    max_candidates: ClassVar[int | None] = None

    def most_candidates(self) -> int | None:
        """Return ``max_candidates`` of this instance; override where that depends on parameters."""
        return type(self).max_candidates

    @abstractmethod
    def __call__(self, batch: Rankings) -> Loss: ...


class RewardObjective(_Objective):
    """A loss on a reward model's scores, to be minimised.

    ``max_candidates`` is how many responses to a prompt it takes: 2 = pairs and nothing else, None = any number.
    """

    role = "reward_model"
    scope: ClassVar[Scope] = "item"
    max_candidates: ClassVar[int | None] = None

    def most_candidates(self) -> int | None:
        """Return ``max_candidates`` of this instance; override where that depends on parameters."""
        return type(self).max_candidates

    @abstractmethod
    def __call__(self, batch: Scores) -> Loss: ...


class RewardFunction(Component):
    """What an environment or a verifier pays."""

    role = "reward"


class PreferenceData(Component):
    """Responses that somebody has ranked, labelled or scored: from a file, or drawn from a world whose truth is known.

    ``provides`` names the optional fields of ``Rankings`` and ``Scores`` that its labels fill.
    """

    role = "data"
    provides: ClassVar[frozenset[str]] = frozenset()

    def gives(self) -> frozenset[str]:
        """Return what this instance provides; override where that depends on parameters."""
        return type(self).provides

    @abstractmethod
    def build(self, environment: BuiltEnvironment, reference: Actor, streams: Streams) -> Candidates:
        """Return the data of all runs, ``[runs, rows, k]``; ``reference`` is the policy before any training."""


class Environment(Component):
    """A world to act in. ``provides`` names the optional batch fields that its trajectories carry.

    ``training_only`` names the fields that change what is collected or paid and leave the exact world as it is: arms
    that differ in nothing else are judged in one table. In an ``undiscounted`` world the discount is 1 where a spec
    leaves it out.
    """

    role = "environment"
    provides: ClassVar[frozenset[str]] = frozenset()
    training_only: ClassVar[frozenset[str]] = frozenset()
    undiscounted: ClassVar[bool] = False

    def gives(self) -> frozenset[str]:
        """Return what this instance provides; override where that depends on parameters."""
        return type(self).provides

    @abstractmethod
    def build(self, runs: int, envs: int, streams: Streams) -> BuiltEnvironment: ...


class Policy(Component):
    """A family of actors with a leading run axis. ``provides`` names the optional batch fields that it can fill."""

    role = "policy"
    provides: ClassVar[frozenset[str]] = frozenset()

    def gives(self) -> frozenset[str]:
        """Return what this instance provides; override where that depends on parameters."""
        return type(self).provides

    @abstractmethod
    def build(self, spaces: Spaces, runs: int, streams: Streams) -> Actor: ...


class Trainer(Component):
    """The loop. ``uses`` maps a role to whether the loop cannot do without a component of it.

    ``provides`` names the optional batch fields that the loop itself fills, ``asks`` those that it has the policy fill
    (None: whatever a component needs), and ``defaults`` the components that it takes where the spec names none.
    """

    role = "trainer"
    scope: ClassVar[Scope] = "batch"
    uses: ClassVar[Mapping[str, bool]] = {}
    defaults: ClassVar[Mapping[str, str]] = {}
    provides: ClassVar[frozenset[str]] = frozenset()
    asks: ClassVar[frozenset[str] | None] = None

    def gives(self) -> frozenset[str]:
        """Return what this instance provides; override where that depends on parameters."""
        return type(self).provides

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return what is wrong between the loop's options and the composed components; the spec is then refused.

        Each text begins with the dotted path that it is about: ``trainer.minibatches: ...``.
        """
        return []

    def warnings(self, components: Mapping[str, Component]) -> list[str]:
        """Return what works but is probably not meant."""
        return []

    @abstractmethod
    def build(self, setup: Setup) -> Learner: ...


class Optimizer(Component):
    """Builds a torch optimizer that never mixes runs. Parameters called ``critic...`` are the critic's."""

    role = "optimizer"

    @abstractmethod
    def build(self, actor: Actor) -> torch.optim.Optimizer: ...

    def remembers(self) -> bool:
        """Return whether a step depends on earlier gradients, so that a step without a gradient may move weights."""
        return True

    def rate(self, progress: float) -> float:
        """Return the factor on every learning rate once the part ``progress`` of the budget is spent."""
        return 1.0


class Executor(Component):
    """Where the cells of a study run."""

    role = "executor"


class Tracker(Component):
    """Where metrics go besides the run directory."""

    role = "tracker"


class Catalogue(Protocol):
    """What a Slot asks of a registry."""

    def get(self, role: str, name: str) -> type[Component]: ...


class Slot:
    """A place for a component of one role: ``Annotated[RewardObjective, Slot("reward_model")] = BradleyTerry()``.

    Accepts a component, a name, or ``{"name": ..., **parameters}``; names are looked up in the registry that stands in
    the validation context under ``"registry"``. ``others`` are components that verification puts there, too, beside
    the default.
    """

    def __init__(self, role: str, *others: Component) -> None:
        self.role = role
        self.others = others

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda component: component.model_dump()),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"x-role": self.role}  # what it may hold is known to a registry only; see ``rlhf_lab.schema``

    def _validate(self, value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, Component):
            if value.role != self.role:
                raise self._error(
                    f"expected a component of role {self.role!r}, found {value.name!r} of role {value.role!r}"
                )
            return value
        params = {"name": value} if isinstance(value, str) else value
        if not isinstance(params, Mapping) or not isinstance(params.get("name"), str):
            raise self._error(f"expected a name or a mapping with 'name' for role {self.role!r}, found {value!r}")
        registry: Catalogue | None = (info.context or {}).get("registry")
        if registry is None:
            raise self._error(f"the name {params['name']!r} needs a registry; pass a component or use registry.create")
        try:
            component = registry.get(self.role, params["name"])
        except LookupError as error:
            raise self._error(str(error)) from None
        own = {key: x for key, x in params.items() if key != "name"}
        try:
            return component.model_validate(own, context=info.context)
        except ValidationError as error:
            found = [self._detail(item, component) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(component.name, found) from None

    def _detail(self, item: Any, component: type[Component]) -> InitErrorDetails:
        """Return the error in our words: only here is known which parameters were possible."""
        message = complaint(item, component.model_fields)
        return InitErrorDetails(type=self._error(message), loc=item["loc"], input=item["input"])

    @staticmethod
    def _error(message: str) -> PydanticCustomError:
        return PydanticCustomError("component", "{message}", {"message": message})
