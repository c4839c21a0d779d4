"""Whether the math of a component is right: every law of its role, what it claims, and the definition it implements."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final

from hypothesis import strategies as st

from rlhf_lab.components import Component
from rlhf_lab.conformance.guard import Guard, TimeLimitError, seeded
from rlhf_lab.conformance.properties import all_properties, oracle
from rlhf_lab.conformance.property import Property, Violation
from rlhf_lab.conformance.search import Case, draw, shrink, size
from rlhf_lab.conformance.settings import alternatives, settings_of
from rlhf_lab.conformance.subject import RefusedError, Subject, UnjudgedError, View
from rlhf_lab.conformance.verdict import Counterexample, Verdict, shown_inputs
from rlhf_lab.conformance.views import view
from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["Verification", "claims_of_role", "properties_for", "verify"]

TIME_LIMIT: Final = 10.0  # seconds for one call of a component on a tiny batch; compiling is part of a first call
SHRINK_CALLS: Final = 300
NO_ANSWER: Final = "it answered no case; see answers-every-batch"
_UNJUDGED: Final = (UnjudgedError, RefusedError)


def properties_for(component: Component | type[Component], registry: Any = None) -> list[Property]:
    """Return what is checked of a component: laws of its role, its claims, the definition it implements.

    ``registry`` adds the laws of plugins. Raises ``LabError`` for a role without laws, an unknown claim or definition.
    """
    known = _of_role(component.role, registry)
    claimable = {each.id for each in known if each.claim}
    for claim in sorted(set(component.claims) - claimable):
        raise LabError(f"{component.role} {component.name!r} claims {claim!r}. {did_you_mean(claim, claimable)}")
    wanted = [each for each in known if not each.claim or each.id in component.claims]
    return [*wanted, oracle(component.role, component.implements)] if component.implements else wanted


def claims_of_role(role: str, registry: Any = None) -> list[Property]:
    """Return what a component of the role may claim."""
    return [each for each in _of_role(role, registry) if each.claim]


def _of_role(role: str, registry: Any) -> list[Property]:
    view(role)
    found = [*all_properties(role), *(p for p in getattr(registry, "properties", ()) if p.role == role)]
    seen: set[str] = set()
    for each in found:
        if each.id in seen:
            raise LabError(f"two laws of role {role} have the id {each.id!r}; a plugin must rename its own")
        seen.add(each.id)
    return found


def verify(
    component: Component | type[Component],
    *,
    examples: int = 100,
    seed: int = 0,
    registry: Any = None,
    only: Sequence[str] = (),
    time_limit: float = TIME_LIMIT,
    mend: Callable[[Any], Any] | None = None,
) -> list[Verdict]:
    """Return a verdict on every law, claim and definition that concerns a component, and on what it does not claim.

    Of a class, hyper-parameters are varied within their bounds, defaults included; of an instance, they stay. ``only``
    keeps the properties with these ids. The same ``seed`` gives the same verdicts and counterexamples. ``time_limit``
    is in seconds for one call of the component. ``mend`` turns the role's cases into ones that the component can be
    asked of, where it refuses most others.

    Raises ``LabError`` for a role without laws, and for ids that name no property of it.
    """
    if examples < 1:
        raise LabError(f"examples: expected at least 1, found {examples}")
    return Verification(component, examples, seed, registry, time_limit, mend).run(only)


@dataclass
class Verification:
    """One component and the cases that it is judged by, shared between properties."""

    component: Component | type[Component]
    examples: int = 100
    seed: int = 0
    registry: Any = None
    time_limit: float = TIME_LIMIT
    mend: Callable[[Any], Any] | None = None
    shrink_calls: int = SHRINK_CALLS

    def __post_init__(self) -> None:
        self.view: View = view(self.component.role)
        self.guard = Guard(self.time_limit)
        varied = isinstance(self.component, type)
        self.default = self._default()
        self._parameters: st.SearchStrategy[dict[str, Any]] = (
            settings_of(self.component) if isinstance(self.component, type) else st.just({})
        )
        varying = type(self.default).model_fields if varied else {}
        self._choices = {name: alternatives(info) for name, info in varying.items()}
        self._smallest: list[Case] = []  # of the properties that failed so far
        self._own: list[tuple[Subject, Case]] = []

    @cached_property
    def _settings(self) -> list[Component]:
        """The default and the settings that are tried."""
        tried = draw(self._parameters, self.examples, self.seed + 1)
        return [self.default, *(type(self.default)(**each) for each in tried if each)]

    @cached_property
    def _widest(self) -> Component:
        """The setting that takes the largest cases; those that others cannot answer they refuse."""
        return max(self._settings, key=self.view.takes)

    def _default(self) -> Component:
        try:
            default = self.component() if isinstance(self.component, type) else self.component
            needed = default.needs()
        except Exception as error:
            what = f"{self.component.role} {self.component.name!r} cannot be built with its defaults"
            raise LabError(f"{what}: {type(error).__name__}: {error}") from None
        if not isinstance(needed, set | frozenset):
            raise LabError(f"{default.role} {default.name!r} needs {needed!r}; expected a set of names")
        return default

    def run(self, only: Sequence[str] = ()) -> list[Verdict]:
        """Return the verdicts, in the order of laws, claims, definition, and what is not claimed."""
        wanted = properties_for(self.component, self.registry)
        others = [
            p
            for p in claims_of_role(self.component.role, self.registry)
            if p.id not in self.component.claims and p.applies(self.default) is None
        ]
        for unknown in sorted(set(only) - {p.id for p in (*wanted, *others)}):
            raise LabError(
                f"no property of {self.default.name!r} is called {unknown!r}. "
                + did_you_mean(unknown, [p.id for p in (*wanted, *others)])
            )
        chosen = [p for p in wanted if not only or p.id in only]
        left = [p for p in others if not only or p.id in only]
        self._smallest = []
        with self.guard.installed(), seeded(self.seed):
            return [*map(self.judge, chosen), *map(self._unclaimed, left)]

    def judge(self, law: Property) -> Verdict:
        """Return the verdict on one property."""
        begin = time.perf_counter()
        reason = None if law.claim else law.applies(self.default)
        if reason is not None:
            return Verdict(law, "skipped", reason)
        verdict = self._judge_whole(law) if law.whole else self._judge_each(law)
        return replace(verdict, seconds=time.perf_counter() - begin)

    def _judge_whole(self, law: Property) -> Verdict:
        cases = self._cases(law)
        try:
            self._check(law, self._subject(Case({}, None)), [(subject, case.inputs) for subject, case in cases])
        except Violation as error:
            example = Counterexample({}, {}, error.got, error.expected)
            return Verdict(law, "failed", str(error), example, len(cases))
        except _UNJUDGED as error:
            return Verdict(law, "skipped", str(error) or NO_ANSWER)
        return Verdict(law, "passed", examples=len(cases))

    def _judge_each(self, law: Property) -> Verdict:
        judged, reason = 0, ""
        for subject, case in self._cases(law):
            try:
                self._check(law, subject, case.inputs)
            except Violation:
                return self._failed(law, self._shrunk(law, case), judged + 1)
            except _UNJUDGED as error:
                reason = f"it refused every case: {error}" if isinstance(error, RefusedError) else str(error)
            else:
                judged += 1
        if judged == 0:
            return Verdict(law, "skipped", reason or NO_ANSWER)
        return Verdict(law, "passed", examples=judged)

    def _failed(self, law: Property, case: Case, judged: int) -> Verdict:
        subject = self._subject(case)
        try:
            self._check(law, subject, case.inputs)
        except Violation as error:
            got, expected = error.got, error.expected
        else:
            got, expected = "another answer when asked again", "the same answer to the same batch"
        parameters = {name: getattr(subject.component, name) for name in type(subject.component).model_fields}
        shown = {k: v.model_dump() if isinstance(v, Component) else v for k, v in parameters.items()}
        example = Counterexample(shown, shown_inputs(case.inputs), got, expected)
        return Verdict(law, "failed", f"got {got}, expected {expected}", example, judged)

    def _shrunk(self, law: Property, case: Case) -> Case:
        """Return a smaller case that fails, starting from one that failed another law where that one serves."""

        def fails(candidate: Case) -> bool:
            try:
                law.check(self._subject(candidate), candidate.inputs)
            except (Violation, AssertionError):
                return True
            except (Exception, TimeLimitError):
                return False
            return False

        if law.cases is not None:
            return shrink(case, fails, self._choices, self.shrink_calls)
        start = next((known for known in self._smallest if size(known) < size(case) and fails(known)), case)
        smallest = shrink(start, fails, self._choices, self.shrink_calls)
        self._smallest = sorted([*self._smallest, smallest], key=size)
        return smallest

    def _check(self, law: Property, subject: Subject, inputs: Any) -> None:
        """Check a law; whatever goes wrong is a ``Violation``, so that the other laws go on."""
        try:
            law.check(subject, inputs)
        except (Violation, *_UNJUDGED):
            raise
        except AssertionError as error:
            told = str(error).partition("\n")[0]  # pytest appends how it came to be
            raise Violation(told or "a failed assertion", "the statement") from None
        except TimeLimitError:
            raise Violation("time limit: it did not return", f"an answer within {self.time_limit:g} s") from None
        except Exception as error:
            raised = f"{type(error).__name__} while checking: {error}"
            raise Violation(raised, "an answer that can be checked") from None

    def _subject(self, case: Case) -> Subject:
        try:
            component = type(self.default)(**case.parameters) if case.parameters else self.default
        except ValueError as error:  # a combination that the class refuses, met while shrinking
            raise UnjudgedError from error
        return Subject(component, self.view, self.guard, case.inputs)

    def _cases(self, law: Property) -> list[tuple[Subject, Case]]:
        """Return cases, plain ones first; the role's own are drawn once."""
        if law.cases is None:
            if not self._own:
                needed = self._fields()
                drawn = draw(self.view.cases(self._widest, needed), self.examples, self.seed)
                known = {each.name for each in fields(drawn[0])}
                for name in sorted(needed - known):
                    hint = did_you_mean(name, known)
                    raise LabError(f"{self.default.role} {self.default.name!r} needs {name!r}. {hint}")
                self._own = self._drawn([self.mend(each) for each in drawn] if self.mend else drawn)
            pairs = self._own
        else:
            strategy = law.cases(self._widest) if callable(law.cases) else law.cases
            pairs = self._drawn(draw(strategy, self._count(law), self.seed))
        count = min(len(pairs), self._count(law))
        return [pairs[i * len(pairs) // count] for i in range(count)]  # of every size, not the smallest ones only

    def _count(self, law: Property) -> int:
        """Return how many cases a law gets: its share of the examples, but ten where there are as many."""
        return max(min(self.examples, 10), round(self.examples * law.share))

    def _fields(self) -> frozenset[str]:
        """Return the optional fields that some setting of the component, or one of its properties, reads."""
        laws = [p for p in properties_for(self.component, self.registry) if p.claim or p.applies(self.default) is None]
        return frozenset().union(*(each.needs() for each in self._settings), *(law.reads for law in laws))

    def _drawn(self, inputs: list[Any]) -> list[tuple[Subject, Case]]:
        parameters = draw(self._parameters, self.examples, self.seed + 1)[: len(inputs)]  # one draw serves all laws
        parameters += [{}] * (len(inputs) - len(parameters))
        cases = sorted(map(Case, parameters, inputs), key=size)
        return [(self._subject(case), case) for case in cases]

    def _unclaimed(self, law: Property) -> Verdict:
        if law.measure is None:
            return Verdict(law, "not_claimed")
        try:
            return Verdict(law, "not_claimed", law.measure(self._subject(Case({}, None))))
        except (Exception, TimeLimitError) as error:
            return Verdict(law, "not_claimed", f"could not be measured: {str(error) or 'time limit'}")
