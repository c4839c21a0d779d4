"""Every property of some components as one test each, for the test suite of whoever writes them.

    @parametrize_with_properties([MyGAE], expected_failures={"future-only": "looks ahead, see issue 7"})
    def test_math(component, check):
        check(component)

pytest is imported only where a decorator is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf_lab.components import Component
from rlhf_lab.conformance.property import Property
from rlhf_lab.conformance.report import Report
from rlhf_lab.conformance.verification import Verification, properties_for
from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["Check", "Failures", "checks", "parametrize_with_properties"]

Failures = Mapping[str, str | Mapping[str, str]]
"""Expected failures: ``{property: reason}`` for all components, or ``{component: {property: reason}}``."""

Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, repr=False)
class Check:
    """One property of one component. Calling it raises ``AssertionError`` where the property does not hold.

    ``reason`` is why it is known to fail, or empty.
    """

    law: Property
    verification: Verification
    reason: str = ""

    @property
    def id(self) -> str:
        """The readable name of the test: ``my_gae-batch-rows-independent``."""
        return f"{self.verification.default.name}-{self.law.id}"

    def __repr__(self) -> str:
        return self.id

    def __call__(self, component: Component | type[Component] | None = None) -> None:
        """Check the property, of the component that the check was made for."""
        __tracebackhide__ = True
        import pytest

        verdict = self.verification.run([self.law.id])[0]
        if verdict.status == "skipped":
            pytest.skip(verdict.message)
        if verdict.status == "failed":
            judged = type(self.verification.default)
            raise AssertionError(Report(judged, "", [verdict], f"rlhf-lab verify {judged.name}").failure(verdict))


def checks(
    components: Iterable[Component | type[Component]],
    *,
    expected_failures: Failures | None = None,
    examples: int = 100,
    seed: int = 0,
    registry: Any = None,
) -> list[Check]:
    """Return a check for each property of each component: laws, claims, the definition that it implements.

    Raises ``LabError`` for an expected failure of a property that no component has.
    """
    verifications = [Verification(each, examples, seed, registry) for each in components]
    laws = [properties_for(each.component, registry) for each in verifications]
    known = [(each.default.name, {law.id for law in its}) for each, its in zip(verifications, laws, strict=True)]
    reasons = _reasons(expected_failures or {}, known)
    return [
        Check(law, verification, reasons.get((verification.default.name, law.id), ""))
        for verification, its in zip(verifications, laws, strict=True)
        for law in its
    ]


def _reasons(expected: Failures, known: list[tuple[str, set[str]]]) -> dict[tuple[str, str], str]:
    """Return the reasons by component and property; raises ``LabError`` for what nobody has."""
    found: dict[tuple[str, str], str] = {}
    for key, value in expected.items():
        if isinstance(value, str):
            concerned, reasons = known, {key: value}
        else:
            concerned, reasons = [each for each in known if each[0] == key], dict(value)
            if not concerned:
                hint = did_you_mean(key, [name for name, _ in known])
                raise LabError(f"expected_failures: no component is called {key!r}. {hint}")
        possible = set[str]().union(*(ids for _, ids in concerned))
        for law, reason in reasons.items():
            if law not in possible:
                raise LabError(f"expected_failures: no property is called {law!r}. {did_you_mean(law, possible)}")
            found |= {(name, law): reason for name, ids in concerned if law in ids}
    return found


def parametrize_with_properties(
    components: Iterable[Component | type[Component]],
    *,
    expected_failures: Failures | None = None,
    examples: int = 100,
    seed: int = 0,
    registry: Any = None,
) -> Callable[[Test], Test]:
    """Return a decorator that calls a test ``(component, check)`` for each property of each component.

    An expected failure is strict: the test fails where the property holds after all.
    """
    import pytest

    found = checks(components, expected_failures=expected_failures, examples=examples, seed=seed, registry=registry)
    decorator: Callable[[Test], Test] = pytest.mark.parametrize(
        ("component", "check"),
        [
            pytest.param(
                check.verification.component,
                check,
                id=check.id,
                marks=[pytest.mark.xfail(strict=True, raises=AssertionError, reason=check.reason)]
                if check.reason
                else [],
            )
            for check in found
        ],
    )
    return decorator
