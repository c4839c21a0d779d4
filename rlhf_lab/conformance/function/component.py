"""The component class around a plain function."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from rlhf_lab import components
from rlhf_lab.components import Component
from rlhf_lab.conformance.definitions import Definition
from rlhf_lab.conformance.function.arguments import Arguments, find_record, match
from rlhf_lab.conformance.function.batches import FIELDS, PAIR, required_by
from rlhf_lab.conformance.function.calls import Adapter, Form, Layout
from rlhf_lab.conformance.function.limits import Limits
from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.search import draw
from rlhf_lab.conformance.settings import alternatives
from rlhf_lab.conformance.verification import TIME_LIMIT
from rlhf_lab.conformance.views import view
from rlhf_lab.errors import LabError, describe
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Rankings, Scores, Trajectories, ValueBatch, clean

__all__ = ["Wrapped", "from_function"]

_BASES: Final[Mapping[str, type[Component]]] = {
    "advantage": components.AdvantageEstimator,
    "normalizer": components.AdvantageNormalizer,
    "objective": components.PolicyObjective,
    "value": components.ValueObjective,
    "kl": components.KLEstimator,
    "controller": components.Controller,
    "preference": components.PreferenceObjective,
    "reward_model": components.RewardObjective,
}
_WITH_GRADIENT: Final = {
    "objective": ("log_probs", "entropy"),
    "value": ("values",),
    "kl": ("log_probs",),
    "preference": ("log_probs",),
    "reward_model": ("scores",),
}
_PER_ROW: Final = ("preference", "reward_model")  # whose losses are one number per row
PROBES: Final = 20  # batches that show in which form the function takes them


@dataclass(frozen=True)
class Wrapped:
    """A component that calls a function, and what should be known of how it is judged.

    ``subject`` is what to verify: the class, or an instance where nobody knows the bounds of its parameters; ``mend``
    is for ``verify`` too. ``notes`` say what it is not judged by.
    """

    component: type[Component]
    subject: Component | type[Component]
    mend: Callable[[Any], Any]
    notes: list[str]


def from_function(
    function: Callable[..., Any],
    implements: str,
    mapping: Mapping[str, str] | None = None,
    layout: Layout = "rows",
    registry: Any = None,
) -> Wrapped:
    """Return a component that calls a plain function which should be another form of a definition of record.

    ``mapping`` maps batch fields, pseudo-fields (``batches.PSEUDO``) and parameters of the definition to the function's
    arguments; a parameter may be mapped to a value, at which it is then judged. A registered component with the same
    ``implements`` lends the bounds of the parameters and its scope.

    Raises ``LabError`` for a definition that does not exist, an argument that nothing is mapped to, and an answer that
    cannot be judged.
    """
    record = find_record(implements)
    arguments = match(function, record, mapping or {})
    if layout == "row" and "group_ids" in arguments.takes(record):
        raise LabError(f"{function.__name__}: one row at a time cannot have group_ids; use --layout rows")
    if record.role == "preference" and "desirable" in record.reads:
        raise LabError(
            f"{function.__name__}: a row's responses are labelled one by one; write a component for --as {implements}"
        )
    try:
        return _Wrapping(function, record, arguments, layout, _reference(record, registry)).wrapped()
    except ValidationError as error:
        raise LabError(f"{function.__name__}: {describe(error)}") from None
    except LabError as error:
        raise LabError(f"{function.__name__}: {error}") from None


def _reference(record: Definition, registry: Any) -> type[Component] | None:
    """Return a registered component that implements the definition, if possible of its name."""
    known = [] if registry is None else registry.components(record.role)
    found = [each for each in known if each.implements == record.name]
    return min(found, key=lambda each: each.name != record.name, default=None)


class _Wrapping:
    """A function, the definition that it is to be, and what a component needs besides."""

    def __init__(
        self,
        function: Callable[..., Any],
        record: Definition,
        arguments: Arguments,
        layout: Layout,
        reference: type[Component] | None,
    ) -> None:
        self.function, self.record, self.arguments, self.reference = function, record, arguments, reference
        self.takes, self.parameters = arguments.takes(record), arguments.parameters(record)
        self.needs = required_by(record.role, self.takes)
        self.scope = (reference or _BASES[record.role]).scope
        self.distributions = bool(getattr(reference, "distributions", False))
        one_sequence = record.role == "objective" and self.scope == "episode"
        self.limits = Limits(record.role, self.takes, self._looks_ahead(), one_sequence)
        self.adapter = Adapter(
            function,
            arguments,
            self.limits,
            layout,
            trailing=2 if self.distributions else 0 if record.role == "controller" else 1,
            drops_last_axis=self.distributions or record.role in _PER_ROW,
        )

    def wrapped(self) -> Wrapped:
        """Return the component, after a look at the form in which the function takes batches and at what it returns."""
        form, parts = self._probe()
        component = self._component(form)
        default = component()
        notes = [form.told()] if form.told() else []
        notes += [f"not judged: {told}" for told in self._not_judged(parts)]
        return Wrapped(component, component if self.reference else default, self.limits.mended, notes)

    def _looks_ahead(self) -> bool:
        """Return whether a critic's value behind an end counts, for some value of the parameters that are taken."""
        if self.reference is None:
            return "next_values" in self.record.reads
        known = self.reference.model_fields
        fixed = {self._field(name): x for name, x in (self.arguments.fixed(self.record) | self.parameters).items()}
        settings = [{name: value for name, value in fixed.items() if name in known}]
        for name in map(self._field, self.parameters):
            settings += [{**settings[0], name: value} for value in alternatives(known[name])] if name in known else []
        for each in settings:
            try:
                if "next_values" in self.reference(**each).needs():
                    return True
            except ValidationError:
                continue
        return False

    def _field(self, parameter: str) -> str:
        """Return the name that a parameter of the definition has in the component that lends its bounds."""
        found = self.reference.conventions.get(parameter, parameter) if self.reference else parameter
        return found if isinstance(found, str) else parameter

    def _probe(self) -> tuple[Form, int]:
        """Return the form in which the function takes batches, and how many answers it gives to each."""
        role = self.record.role
        cases = []
        for inputs in draw(view(role).cases(self._component(Form())(), self.needs), PROBES, 0):
            given = _given(role, self.limits.mended(inputs))
            if role in _WITH_GRADIENT:
                live = next(iter(given))
                given[live] = given[live].clone().requires_grad_()
            cases.append((given, self.parameters))
        form, parts = self.adapter.first_form(cases, TIME_LIMIT)
        if form.arrays and role in _WITH_GRADIENT:
            raise LabError("takes NumPy arrays only; the gradient is part of a loss, so write it with torch")
        if parts > (2 if role == "advantage" else 1):
            due = "advantages, or advantages and returns," if role == "advantage" else "one tensor"
            raise LabError(f"returns {parts} things; only {due} can be judged")
        return form, parts

    def _not_judged(self, parts: int) -> list[str]:
        """Return what the function is not judged by."""
        found = self.limits.told()
        if self.takes & {"valid", "mask"} and self.record.role not in _PER_ROW:
            found.append("what it returns at steps that do not count")
        if self.record.role == "advantage" and parts == 1:
            found.append("returns: it gives advantages only")
        fixed = self.arguments.fixed(self.record)
        found += [f"{name} other than {value}: it takes no {name}" for name, value in fixed.items()]
        left = {name: x for name, x in self.arguments.defaults.items() if name not in self.arguments.sources}
        return found + [f"{name} other than its default {value!r}" for name, value in left.items()]

    def _component(self, form: Form) -> type[Component]:
        """Return the class, as if somebody had written it around the function."""
        role, name = self.record.role, self.function.__name__
        body: dict[str, Any] = {
            "__module__": self.function.__module__,
            "__doc__": self.function.__doc__ or f"The function {name}.",
            "__annotations__": {},
            "__call__": _caller(role, self._asker(form), self._returns),
            "name": name,
            "requires": self.needs,
            "implements": self.record.name,
            "conventions": self.arguments.constants,
            "scope": self.scope,
        } | ({"distributions": self.distributions} if role == "kl" else {})
        if role in _PER_ROW:
            reference: Any = self.reference and self.reference()
            body["max_candidates"] = 2 if self.takes & PAIR else reference and reference.most_candidates()
        for parameter, default in self.parameters.items():
            info = self.reference.model_fields.get(self._field(parameter)) if self.reference else None
            kind, bounds = (type(default), []) if info is None else (info.annotation, info.metadata)
            body["__annotations__"][parameter] = Annotated[(kind, *bounds)] if bounds else kind
            body[parameter] = Field(default=default)
        built: type[Component] = types.new_class(name, (_BASES[role],), exec_body=lambda space: space.update(body))
        return built

    def _asker(self, form: Form) -> Callable[[Component, Mapping[str, Tensor]], tuple[Tensor, ...]]:
        def ask(component: Component, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            return self.adapter.ask(given, {name: getattr(component, name) for name in self.parameters}, form)

        return ask

    def _returns(self, component: Component, batch: Trajectories) -> Tensor | None:
        """Return the definition's own value target, for a function that gives none and is not judged by it."""
        leading = batch.rewards.ndim - 1
        flat = map_fields(batch, lambda _, __, x: x.reshape(-1, *x.shape[leading:]))
        parameters = self.arguments.fixed(self.record) | {name: getattr(component, name) for name in self.parameters}
        found = self.record.answer(flat, **parameters).get("returns")
        return None if found is None else found.to(batch.rewards.dtype).reshape(batch.rewards.shape)


def _given(role: str, *batches: Any) -> dict[str, Tensor]:
    """Return the fields of the role that some batch has, detached where a caller would detach them."""
    found: dict[str, Tensor] = {}
    for batch in batches:
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        found |= {name: x for name, x in values.items() if isinstance(x, Tensor) and name in FIELDS[role]}
    return {name: x if name in _WITH_GRADIENT.get(role, ()) else x.detach() for name, x in found.items()}


def _caller(role: str, ask: Callable[..., tuple[Tensor, ...]], own_returns: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``__call__`` of a component of the role."""

    def advantage(component: Component, batch: Trajectories) -> Advantages:
        answers = ask(component, _given(role, batch))
        returns = answers[1] if len(answers) > 1 else own_returns(component, batch)
        return Advantages(clean(answers[0], batch.valid), None if returns is None else clean(returns, batch.valid))

    def normalizer(component: Component, batch: Trajectories, advantages: Advantages) -> Advantages:
        answer = ask(component, _given(role, batch, advantages))[0]
        return Advantages(clean(answer, batch.valid), advantages.returns)

    def loss(component: Component, batch: PolicyBatch | ValueBatch) -> Loss:
        given = _given(role, batch)
        for name in _WITH_GRADIENT[role]:  # neither gradient nor loss where not valid: what stands there is not judged
            given |= {name: torch.where(batch.valid, given[name], given[name].detach())} if name in given else {}
        return Loss(clean(ask(component, given)[0], batch.valid))

    def kl(
        component: Component, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None
    ) -> Tensor:
        given = {"log_probs": log_probs, "ref_log_probs": ref_log_probs.detach()}
        given |= {} if old_log_probs is None else {"old_log_probs": old_log_probs.detach()}
        return ask(component, given)[0]

    def controller(component: Component, coefficient: Tensor, observed: Tensor) -> Tensor:
        return ask(component, {"coefficient": coefficient, "observed": observed})[0]

    def row_loss(component: Component, batch: Rankings | Scores) -> Loss:
        given = _given(role, batch)
        live = _WITH_GRADIENT[role][0]
        given.setdefault("valid", torch.ones_like(given[live], dtype=torch.bool))
        given[live] = torch.where(given["valid"], given[live], given[live].detach())
        return Loss(ask(component, given)[0])

    callers: Mapping[str, Callable[..., Any]] = {
        "advantage": advantage,
        "normalizer": normalizer,
        "objective": loss,
        "value": loss,
        "kl": kl,
        "controller": controller,
        "preference": row_loss,
        "reward_model": row_loss,
    }
    return callers[role]
