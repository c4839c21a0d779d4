"""A component under test: called as the host would call it, its errors told apart, its answers remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from rlhf_lab.batch import Batch, Refused
from rlhf_lab.components import Component
from rlhf_lab.conformance.definitions import Definition, definition
from rlhf_lab.conformance.guard import Guard, TimeLimitError
from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.property import Violation
from rlhf_lab.errors import LabError, describe

__all__ = ["Answer", "RefusedError", "Subject", "UnansweredError", "UnjudgedError", "View"]

Answer = Mapping[str, Tensor]


class UnansweredError(Violation):
    """The component raised, did not return in time, or returned what is no answer."""


class RefusedError(Exception):
    """The component refuses the case (``rlhf_lab.types.Refused``), so there is nothing to judge."""


class UnjudgedError(Exception):
    """The component gives no answer to the case itself, which is for the law ``answers-every-batch`` to tell."""


@dataclass(frozen=True)
class View:
    """How the components of one role are called and read: their answer as tensors, each with a symbol.

    Gradients are part of the answer, so that every law about values is one about gradients too.
    """

    role: str
    call: Callable[[Component, Any], Answer]
    cases: Callable[[Component, frozenset[str]], Any]  # the role's own strategy, with these optional fields
    takes: Callable[[Component], float] = lambda component: 0.0  # how large a case may be, where settings differ in it


class Subject:
    """One component with fixed hyper-parameters, and one case that it is judged by."""

    def __init__(self, component: Component, view: View, guard: Guard, base: Any = None) -> None:
        self.component = component
        self.view = view
        self.guard = guard
        self.base = base
        self._answer: Answer | Exception | None = None

    def __call__(self, inputs: Any) -> Answer:
        """Return the answer for any inputs of the role; the answer to the case itself is computed once.

        Raises ``UnansweredError``, ``RefusedError``, or ``UnjudgedError`` where there is no answer to the case itself.
        """
        if inputs is not self.base:
            return self._ask(inputs)
        try:
            return self.base_answer()
        except UnansweredError:
            raise UnjudgedError from None

    def base_answer(self) -> Answer:
        """Return the answer to the case itself."""
        if self._answer is None:
            try:
                self._answer = self._ask(self.base)
            except (UnansweredError, RefusedError) as error:
                self._answer = error
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def _ask(self, inputs: Any) -> Answer:
        answer = self.call(self.asked(inputs))
        one_run = isinstance(inputs, Batch) and self._sees_runs
        return {symbol: x[0] for symbol, x in answer.items()} if one_run else answer

    @property
    def _sees_runs(self) -> bool:
        return self.component.stacked and self.component.scope in ("group", "batch")

    def asked(self, inputs: Any) -> Any:
        """Return a copy of the inputs, with a run axis where the component sees runs.

        A copy, because whoever changes it in place must not change the cases of other laws and components.
        """
        if not isinstance(inputs, Batch):
            return inputs
        sees_runs = self._sees_runs
        return map_fields(inputs, lambda _, __, x: x.clone()[None] if sees_runs else x.clone())

    def call(self, asked: Any) -> Answer:
        """Return the answer to exactly these tensors; raises ``UnansweredError`` or ``RefusedError``."""
        try:
            return self.guard.call(self.view.call, self.component, asked)
        except TimeLimitError:
            raise UnansweredError(
                "time limit: it did not return", f"an answer within {self.guard.seconds:g} s"
            ) from None
        except LabError as error:
            if isinstance(error.__cause__, Refused):
                raise RefusedError(str(error.__cause__)) from None
            raise UnansweredError(str(error), "an answer") from None
        except Violation as error:
            raise UnansweredError(error.got, error.expected) from None
        except Exception as error:
            raise UnansweredError(f"{type(error).__name__}: {error}", "an answer") from None

    def of(self, **parameters: Any) -> Subject:
        """Return the subject with other hyper-parameters, given by the names of the definition of record.

        Raises ``Violation`` where the component has no such parameter: the claim then cannot hold.
        """
        own = {self.field(name): value for name, value in parameters.items()}
        values = {name: getattr(self.component, name) for name in type(self.component).model_fields}
        try:
            changed = type(self.component)(**{**values, **own})
        except ValidationError as error:
            raise Violation(f"refused: {describe(error)}", f"a component with {own}") from None
        return Subject(changed, self.view, self.guard)

    def field(self, name: str) -> str:
        """Return the component's field for a parameter of the definition of record."""
        found = self.component.conventions.get(name, name)
        if isinstance(found, str) and found in type(self.component).model_fields:
            return found
        raise Violation(
            f"no parameter {name}", f"one, which the claim is about; `conventions = {{{name!r}: ...}}` names yours"
        )

    def has(self, name: str) -> bool:
        """Return whether the component has a field for a parameter of the definition of record."""
        found = self.component.conventions.get(name, name)
        return isinstance(found, str) and found in type(self.component).model_fields

    def parameter(self, name: str, default: Any = None) -> Any:
        """Return the value of a parameter of the definition of record: a field, a fixed value, or ``default``."""
        if self.has(name):
            return getattr(self.component, self.field(name))
        return self.component.conventions.get(name, default)

    def definition(self) -> Definition:
        """Return the definition of record that the component says it implements."""
        return definition(self.component.role, self.component.implements or "")

    def recorded_parameters(self, of: Definition) -> dict[str, Any]:
        """Return the parameters of a definition of record as this component has them."""
        return {name: self.parameter(name, default) for name, default in of.parameters.items()}
