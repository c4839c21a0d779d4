"""What verification says of a component, for people, for programs, and as one line for a README."""

from __future__ import annotations

import math
import textwrap
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rlhf_lab.components import Component
from rlhf_lab.conformance.property import show_number
from rlhf_lab.conformance.verdict import Counterexample, Status, Verdict

__all__ = ["Report", "counts", "for_json", "show_case", "show_inputs", "show_parameters", "show_value"]

_WORDS: Final[Mapping[Status, str]] = {"passed": "pass", "failed": "FAIL", "not_claimed": "    ", "skipped": "skip"}
_NAMES: Final[Mapping[Status, str]] = {
    "failed": "failed",
    "passed": "passed",
    "not_claimed": "not claimed",
    "skipped": "skipped",
}
WIDTH: Final = 110
FEW: Final = 3  # hyper-parameters that are all shown, defaults too


@dataclass(frozen=True)
class Report:
    """Verdicts on one component; ``again`` is the command that asks for them once more."""

    component: type[Component]
    source: str
    verdicts: Sequence[Verdict]
    again: str
    title: str = ""  # what stands in brackets behind the name; its role by default
    notes: Sequence[str] = ()  # what else should be known, as what was not judged

    @property
    def failed(self) -> bool:
        """Whether a law does not hold."""
        return any(verdict.status == "failed" for verdict in self.verdicts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON; numbers that JSON does not know become texts."""
        found: dict[str, Any] = {
            "component": self.component.name,
            "role": self.component.role,
            "source": self.source,
            "verdicts": [for_json(verdict.to_dict()) for verdict in self.verdicts],
        }
        return found | ({"notes": list(self.notes)} if self.notes else {})

    def lines(self, *, brief: bool = False) -> Iterator[str]:
        """Yield the report for people; a ``brief`` one tells of each property only where it fails."""
        yield f"{self.component.name}  ({self.title or self.component.role})  {self.source}"
        told = [v for v in self.verdicts if v.status == "failed" or not (brief or _silent(v))]
        width = max((len(v.property.id) for v in told), default=0)
        for verdict in told:
            yield f"  {_WORDS[verdict.status]}  {verdict.property.id:<{width}}  {_outcome(verdict)}".rstrip()
            if verdict.status == "failed":
                yield from (f"        {line}" for line in self._failure(verdict))
        silent = [v.property.id for v in self.verdicts if _silent(v)]
        if silent and not brief:
            head = f"  {_WORDS['not_claimed']}  not claimed: "
            yield from textwrap.wrap(
                ", ".join(silent), WIDTH, initial_indent=head, subsequent_indent=" " * 8, break_on_hyphens=False
            )
        for note in self.notes:
            yield f"  {note}"
        yield counts(self.verdicts)

    def failure(self, verdict: Verdict) -> str:
        """Return one failed verdict as a text of several lines."""
        return "\n".join([f"{self.component.name}: {verdict.property.id}", *self._failure(verdict)])

    def _failure(self, verdict: Verdict) -> Iterator[str]:
        law, example = verdict.property, verdict.counterexample
        yield f"statement   {law.statement}"
        yield f"source      {law.reference}"
        if example is not None and (example.inputs or example.parameters):
            yield f"smallest    {show_case(self.component, example)}"
        got, expected = (verdict.message, "") if example is None else (example.got, example.expected)
        got, expected = " ".join(got.split()), " ".join(expected.split())
        if len(got) + len(expected) > 80:
            yield f"got         {got}"
            yield f"expected    {expected}"
        else:
            yield f"got         {got:<24}  expected   {expected}"
        yield f"again       {self.again} --only {law.id}"

    def badge(self) -> str:
        """Return one line of Markdown that says what was found; the picture is drawn by shields.io when it is read."""
        found = counts(self.verdicts)
        colour = "red" if self.failed else "brightgreen"
        texts = [self._shield(text) for text in (f"rlhf-lab verify {self.component.name}", found)]
        url = f"https://img.shields.io/badge/{'-'.join(texts)}-{colour}"
        return f"![rlhf-lab verify {self.component.name}: {found}]({url})"

    @staticmethod
    def _shield(text: str) -> str:
        return urllib.parse.quote(text.replace("-", "--").replace("_", "__").replace(" ", "_"), safe="_")


def counts(verdicts: Sequence[Verdict]) -> str:
    """Return ``1 failed, 11 passed, 3 not claimed``."""
    numbers = {status: sum(v.status == status for v in verdicts) for status in _NAMES}
    return ", ".join(f"{n} {_NAMES[status]}" for status, n in numbers.items() if n) or "nothing to verify"


def show_case(component: type[Component], example: Counterexample) -> str:
    """Return inputs and hyper-parameters in one line: ``rewards=[0, 1] valid=[True, False]  gamma=0.5``."""
    defaults = {name: info.get_default(call_default_factory=True) for name, info in component.model_fields.items()}
    few = len(example.parameters) <= FEW
    parameters = {
        name: value for name, value in example.parameters.items() if few or value != _dumped(defaults.get(name, value))
    }
    return f"{show_inputs(example.inputs)}  {show_parameters(parameters)}".strip()


def show_inputs(inputs: Mapping[str, Any]) -> str:
    """Return ``rewards=[0, 1] valid=[True, False]``."""
    return " ".join(f"{name}={show_value(value)}" for name, value in inputs.items())


def show_parameters(parameters: Mapping[str, Any]) -> str:
    """Return ``gamma=0.5 lam=1``."""
    return " ".join(f"{name}={value if value is None else show_value(value)}" for name, value in parameters.items())


def show_value(value: Any) -> str:
    """Return a value as a person would write it; ``-`` stands where a step does not count."""
    if isinstance(value, Mapping):
        inner = [f"{k}={show_value(v)}" for k, v in value.items() if k != "name"]
        return f"{value.get('name', '')}({', '.join(inner)})" if inner else str(value.get("name", "{}"))
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show_value, value))}]"
    if value is None:
        return "-"
    return show_number(value, 12) if isinstance(value, float) else str(value)


def _dumped(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Component) else value


def _silent(verdict: Verdict) -> bool:
    """Return whether there is nothing to tell but that a property is not claimed."""
    return verdict.status == "not_claimed" and not verdict.message


def _outcome(verdict: Verdict) -> str:
    if verdict.status == "not_claimed":
        return f"not claimed; {verdict.message}" if verdict.message else "not claimed"
    if verdict.status == "skipped":
        return verdict.message
    return f"{verdict.examples:>4} {'case ' if verdict.examples == 1 else 'cases'}  {verdict.seconds:.1f} s"


def for_json(value: Any) -> Any:
    """Return a value with texts for what JSON does not know, infinity among it."""
    if isinstance(value, Mapping):
        return {key: for_json(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
