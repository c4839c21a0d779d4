"""Where two components of one role differ: the smallest input, with both answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_lab.components import Component, PreferenceObjective, RewardObjective
from rlhf_lab.conformance.guard import Guard, seeded
from rlhf_lab.conformance.property import TOLERANCE, Violation, expect_equal
from rlhf_lab.conformance.report import for_json, show_inputs, show_parameters
from rlhf_lab.conformance.search import Case, draw, shrink, size
from rlhf_lab.conformance.settings import alternatives, settings_of
from rlhf_lab.conformance.subject import Answer, RefusedError, Subject, UnansweredError, View
from rlhf_lab.conformance.verdict import shown_inputs
from rlhf_lab.conformance.verification import SHRINK_CALLS, TIME_LIMIT
from rlhf_lab.conformance.views import view
from rlhf_lab.errors import LabError

__all__ = ["Difference", "diff"]


@dataclass(frozen=True)
class Difference:
    """The smallest input found on which two components differ, their parameters, and what each answers."""

    inputs: dict[str, Any]
    parameters: tuple[dict[str, Any], dict[str, Any]]
    answers: tuple[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        sides = [{"parameters": p, "answer": x} for p, x in zip(self.parameters, self.answers, strict=True)]
        found: dict[str, Any] = for_json({"inputs": self.inputs, "a": sides[0], "b": sides[1]})
        return found

    def lines(self, first: str, second: str) -> Iterator[str]:
        """Yield the difference for people; ``first`` and ``second`` are what the components are called."""
        width = max(map(len, (first, second, "smallest")))
        yield f"{first} and {second} differ"
        yield f"  {'smallest':<{width}}  {show_inputs(self.inputs)}"
        for name, parameters, answer in zip((first, second), self.parameters, self.answers, strict=True):
            yield f"  {name:<{width}}  {answer}    {show_parameters(parameters)}".rstrip()


def diff(
    first: Component | type[Component], second: Component | type[Component], *, examples: int = 100, seed: int = 0
) -> Difference | None:
    """Return the smallest input found on which two components of one role differ, or None.

    Hyper-parameters that both have are equal: varied for two classes, those of the instance for a class and an
    instance. The others keep their values. Compared is what both answer with, at the steps that count. A component that
    gives no answer differs from one that does; a batch that one of them refuses is not compared.

    Raises ``LabError`` for components of different roles, and for roles without laws.
    """
    if first.role != second.role:
        raise LabError(
            f"{first.name!r} is of role {first.role}, {second.name!r} of role {second.role}; "
            "only components of one role can be compared"
        )
    if getattr(first, "distributions", False) != getattr(second, "distributions", False):
        raise LabError(f"one of {first.name!r} and {second.name!r} takes whole distributions, the other does not")
    return _Comparison((first, second), examples, seed).run()


class _Comparison:
    def __init__(
        self, pair: tuple[Component | type[Component], Component | type[Component]], examples: int, seed: int
    ) -> None:
        self.view: View = view(pair[0].role)
        self.pair, self.examples, self.seed = pair, examples, seed
        self.guard = Guard(TIME_LIMIT)
        self.defaults = [each() if isinstance(each, type) else each for each in pair]
        first, second = (type(each).model_fields for each in self.defaults)
        common = {name: info for name, info in first.items() if name in second}
        varied = [isinstance(each, type) for each in pair]
        self.shared = common if all(varied) else {}
        for mine, other in ((0, 1), (1, 0)):
            if varied[mine] and not varied[other]:
                given = {name: getattr(self.defaults[other], name) for name in common}
                self.defaults[mine] = self._with(self.defaults[mine], given)

    def run(self) -> Difference | None:
        first = self.pair[0]
        with self.guard.installed(), seeded(self.seed):
            parameters = [{}] if not isinstance(first, type) else draw(settings_of(first), self.examples, self.seed + 1)
            settings = [{name: each[name] for name in self.shared if name in each} for each in parameters]
            inputs = draw(self.view.cases(*self._widest()), self.examples, self.seed)
            cases = [Case(settings[i % len(settings)], batch) for i, batch in enumerate(inputs)]
            for case in sorted(cases, key=size):
                if self._differ(case) is not None:
                    choices = {name: alternatives(info) for name, info in self.shared.items()}
                    return self._told(shrink(case, lambda c: self._differ(c) is not None, choices, SHRINK_CALLS))
        return None

    def _widest(self) -> tuple[Component, frozenset[str]]:
        """Return the component that asks for the narrower batches, and the fields that either needs."""
        narrow = [each for each in self.defaults if each.scope == "group" or _pairs_only(each)]
        return (narrow or self.defaults)[0], self.defaults[0].needs() | self.defaults[1].needs()

    def _differ(self, case: Case) -> tuple[str, str] | None:
        """Return both answers at the first number that differs."""
        try:
            subjects = [Subject(self._with(each, case.parameters), self.view, self.guard) for each in self.defaults]
            a, b = (self._answer(subject, case.inputs) for subject in subjects)
        except (ValueError, RefusedError):  # a setting that one class refuses, or a batch that one of them does
            return None
        if isinstance(a, str) or isinstance(b, str):
            told = tuple(x if isinstance(x, str) else "an answer" for x in (a, b))
            return None if isinstance(a, str) and isinstance(b, str) else (told[0], told[1])
        try:
            common = {symbol: x for symbol, x in b.items() if symbol in a}
            where = getattr(case.inputs, "valid", None)
            expect_equal(a, common, where, tolerance=TOLERANCE)
        except Violation as error:
            return error.got, error.expected
        return None

    @staticmethod
    def _with(component: Component, parameters: Mapping[str, Any]) -> Component:
        values = {name: getattr(component, name) for name in type(component).model_fields}
        return type(component)(**{**values, **parameters})

    @staticmethod
    def _answer(subject: Subject, inputs: Any) -> Answer | str:
        try:
            answer = subject(inputs)
        except UnansweredError as error:
            return error.got
        if "share" in answer:  # of an aggregation, whose weights and total have a meaning only together
            return {"share": answer["share"]}
        return {symbol: x.to(torch.float64) for symbol, x in answer.items()}

    def _told(self, case: Case) -> Difference:
        both = self._differ(case)
        assert both is not None
        parameters = [self._with(each, case.parameters).model_dump(exclude={"name"}) for each in self.defaults]
        for each in parameters:
            each.pop("name", None)
        return Difference(shown_inputs(case.inputs), (parameters[0], parameters[1]), both)


def _pairs_only(component: Component) -> bool:
    most = component.most_candidates() if isinstance(component, PreferenceObjective | RewardObjective) else None
    return most is not None
