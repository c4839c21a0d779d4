"""One advantage taken apart: how much of it comes from which reward, which of the critic's values, and where it stops.

For an estimator that is linear in rewards and values, as most are, the weights are exact. For another one (a
standardised score) they are slopes at this input, and what they leave over is told as rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from rlhf_lab.conformance.property import show_number
from rlhf_lab.conformance.report import for_json, show_parameters

__all__ = ["KINDS", "Explanation", "Step", "Term"]

KINDS: Final = ("reward", "value", "behind", "baseline")


@dataclass(frozen=True)
class Term:
    """A number of the input, its weight in the advantage, and their product."""

    value: float
    weight: float
    term: float


@dataclass(frozen=True)
class Step:
    """What one step adds. ``behind`` is the critic's value after an end, ``boundary`` the kind of that end."""

    row: int
    step: int
    reward: Term | None = None
    value: Term | None = None
    behind: Term | None = None
    baseline: Term | None = None
    td_error: float | None = None
    boundary: str = ""

    @property
    def terms(self) -> dict[str, Term]:
        """The terms that the step has, by kind."""
        return {kind: term for kind in KINDS if (term := getattr(self, kind)) is not None}

    @property
    def adds(self) -> float:
        """The sum of its terms."""
        return math.fsum(term.term for term in self.terms.values())


@dataclass(frozen=True)
class Explanation:
    """One advantage as a sum: of all steps' terms and, for an estimator that is not linear, a rest."""

    component: str
    parameters: dict[str, Any]
    row: int
    step: int
    advantage: float
    linear: bool
    rest: float
    steps: tuple[Step, ...]
    in_td_errors: bool  # whether the advantage is the sum of TD errors, each with its reward's weight

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation for JSON."""
        found = {key: x for key, x in asdict(self).items() if key not in ("row", "step")}
        found["at"] = [self.row, self.step]
        for told, step in zip(found["steps"], self.steps, strict=True):
            told["adds"] = step.adds
        checked: dict[str, Any] = for_json(found)
        return checked

    def lines(self) -> Iterator[str]:
        """Yield the explanation for people."""
        called = f"{self.component}  {show_parameters(self.parameters)}".strip()
        yield f"A[{self.row},{self.step}] of {called} = {show_number(self.advantage, 6)}"
        head = [
            "step",
            "reward x weight",
            "V(s) x weight",
            "V behind x weight",
            "baseline x weight",
            "TD error",
            "adds",
            "",
        ]
        table = [head, *(self._cells(step) for step in self.steps)]
        if self.rest:
            why = "of its parameters, not of the input" if self.linear else "what slopes leave over"
            table.append(["rest", *[""] * 5, show_number(self.rest, 6), why])
        table.append(["sum", *[""] * 5, show_number(self.advantage, 6), ""])
        kept = [i for i in range(len(head)) if i in (0, 6, 7) or any(row[i] for row in table[1:])]
        widths = [max(len(row[i]) for row in table) for i in kept]
        for row in table:
            cells = [
                row[i].ljust(width) if i in (0, 7) else row[i].rjust(width)
                for i, width in zip(kept, widths, strict=True)
            ]
            yield f"  {'   '.join(cells)}".rstrip()
        if not self.linear:
            yield "It is not linear in rewards and values: the weights are local, slopes at this input."
        if self.in_td_errors:
            yield "It is the sum of the TD errors r + gamma V(s') - V(s), each with the weight of its reward."

    def _cells(self, step: Step) -> list[str]:
        found = [f"{step.row},{step.step}"]
        for kind in KINDS:
            term = step.terms.get(kind)
            found.append("" if term is None else f"{show_number(term.value, 6)} x {show_number(term.weight, 6)}")
        error = "" if step.td_error is None else show_number(step.td_error, 6)
        return [*found, error, show_number(step.adds, 6) if step.terms else "", step.boundary]
