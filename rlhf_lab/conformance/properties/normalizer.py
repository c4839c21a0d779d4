"""Laws and claims of role normalizer: what is shifted and scaled together, and to which mean and deviation.

A unit is what is normalised together: the whole batch, or for scope ``group`` the rows of one prompt. What counts in it
once are its steps, or with the parameter ``over`` = episodes its episodes, whatever their length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import Estimated, segments, take_rows, with_fields
from rlhf_lab.conformance.property import Check, Property, always, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["PROPERTIES"]

_CONTRACT: Final = "contract of rlhf_lab"
_STANDARD: Final = "Andrychowicz et al. 2021; Shao et al. 2024, section 4.1.2"
_NUMERIC: Final = 1e-7  # a deviation of 1e-5 around 1 keeps eleven digits


@dataclass(frozen=True)
class _Unit:
    """Steps that are normalised together, what each counts, and what they count in all."""

    rows: list[int]
    steps: list[int]
    weights: list[float]
    size: int

    def values(self, x: Tensor) -> list[float]:
        found: list[float] = x[self.rows, self.steps].tolist()
        return found

    def mean(self, x: Tensor) -> float:
        return math.fsum(w * v for w, v in zip(self.weights, self.values(x), strict=True)) / self.size

    def deviation(self, x: Tensor, ddof: int) -> float | None:
        """Return the standard deviation, None where the unit is too small for one."""
        if self.size <= ddof:
            return None
        mean = self.mean(x)
        squares = math.fsum(w * (v - mean) ** 2 for w, v in zip(self.weights, self.values(x), strict=True))
        return math.sqrt(squares / (self.size - ddof))

    def constant(self, x: Tensor) -> bool:
        return len(set(self.values(x))) == 1


def _raw(case: Estimated) -> Tensor:
    assert case.advantages is not None
    return case.advantages


def _with_raw(case: Estimated, raw: Tensor) -> Estimated:
    return with_fields(case, {"advantages": raw.masked_fill(~case.valid, 0)})


def _units(subject: Subject, case: Estimated) -> list[_Unit]:
    labels = case.group_ids.tolist() if subject.component.scope == "group" and case.group_ids is not None else None
    by_episode = subject.parameter("over", "steps") == "episodes"
    members: dict[int, list[Any]] = {}
    for episode in segments(case):
        members.setdefault(labels[episode.row] if labels else 0, []).append(episode)
    found = []
    for episodes in members.values():
        at = [(e.row, t, 1 / len(e.steps) if by_episode else 1.0) for e in episodes for t in e.steps]
        rows, steps, weights = (list(x) for x in zip(*at, strict=True))
        found.append(_Unit(rows, steps, weights, len(episodes) if by_episode else len(at)))
    return found


def _targets_untouched(subject: Subject, case: Estimated) -> None:
    answer = subject(case)
    if case.returns is None:
        expect_true("returns" not in answer, "returns where none were given", "none")
    else:
        expect_equal(answer, {"returns": case.returns}, case.valid, note="as given: they are the value targets")


def _order_kept(subject: Subject, case: Estimated) -> None:
    raw, found = _raw(case), subject(case)["A"]
    slack = 1e-9 * max(1.0, float(found.abs().max()))
    for episode in segments(case):
        at = (episode.row, list(episode.steps))
        pairs = sorted(zip(raw[at].tolist(), found[at].tolist(), strict=True))
        for (low, first), (high, second) in pairwise(pairs):
            got = f"{show_number(first)} and {show_number(second)} for {show_number(low)} and {show_number(high)}"
            expect_true(low == high or first <= second + slack, got, "the same order")


def _groups_isolated(subject: Subject, case: Estimated) -> None:
    assert case.group_ids is not None
    whole, labels = subject(case), case.group_ids.tolist()
    for group in sorted(set(labels)):
        rows = [row for row, label in enumerate(labels) if label == group]
        alone = subject(take_rows(case, rows))
        expect_equal(
            alone, {"A": whole["A"][rows]}, case.valid[rows], note=f"as beside other groups, for group {group}"
        )


def _labels_only(subject: Subject, case: Estimated) -> None:
    assert case.group_ids is not None
    renamed = with_fields(case, {"group_ids": 1000 - 7 * case.group_ids})
    expect_equal(subject(renamed), subject(case), case.valid, note="as before the groups got other ids")


def _identity(subject: Subject, case: Estimated) -> None:
    expect_equal(subject(case), {"A": _raw(case)}, case.valid, note="as given")


def _odd(subject: Subject, case: Estimated) -> None:
    turned = subject(_with_raw(case, -_raw(case)))
    expect_equal(turned, {"A": -subject(case)["A"]}, case.valid, note="for advantages of the other sign")


def _shift_invariant(subject: Subject, case: Estimated) -> None:
    counted = _raw(case)[case.valid]
    spread = float(counted.max() - counted.min()) if counted.numel() else 0.0
    offset = 2.0 ** (
        18 + math.frexp(spread)[1]
    )  # large beside the spread, and a power of two, so that no digit is lost
    shifted = subject(_with_raw(case, _raw(case) + offset))
    note = f"as before {offset:g} was added to all"
    expect_equal(shifted, {"A": subject(case)["A"]}, case.valid, note=note, tolerance=_NUMERIC)


def _scale_invariant(subject: Subject, case: Estimated) -> None:
    for factor in (16.0, 0.125):
        scaled = subject.of(eps=factor * subject.parameter("eps")) if subject.has("eps") else subject
        found = scaled(_with_raw(case, factor * _raw(case)))
        note = f"as before all were multiplied by {factor:g}, `eps` too"
        expect_equal(found, {"A": subject(case)["A"]}, case.valid, note=note, tolerance=_NUMERIC)


def _mean_zero(subject: Subject, case: Estimated) -> None:
    found = subject(case)["A"]
    for unit in _units(subject, case):
        mean = unit.mean(found)
        scale = max(1.0, *(abs(v) for v in unit.values(found)))
        expect_true(abs(mean) <= _NUMERIC * scale, f"a mean of {show_number(mean)}", f"0, {_what(subject, unit)}")


def _unit_deviation(subject: Subject, case: Estimated) -> None:
    found, ddof, eps = subject(case)["A"], int(subject.parameter("ddof", 1)), float(subject.parameter("eps", 0.0))
    for unit in _units(subject, case):
        deviation = unit.deviation(_raw(case), ddof)
        if deviation is None or unit.constant(_raw(case)):
            continue
        got, due = unit.deviation(found, ddof), deviation / (deviation + eps)
        assert got is not None
        told = f"{show_number(due)} = std / (std + eps), {_what(subject, unit)}, ddof {ddof}"
        expect_true(abs(got - due) <= _NUMERIC, f"a standard deviation of {show_number(got)}", told)


def _what(subject: Subject, unit: _Unit) -> str:
    return (
        f"over {unit.size} {subject.parameter('over', 'steps')} of rows {', '.join(map(str, sorted(set(unit.rows))))}"
    )


def _shifted_and_scaled(subject: Subject, case: Estimated) -> None:
    raw, found = _raw(case), subject(case)["A"]
    for unit in _units(subject, case):
        pairs = sorted(zip(unit.values(raw), unit.values(found), strict=True))
        (low, first), (high, last) = pairs[0], pairs[-1]
        slope = (last - first) / (high - low) if high > low else 0.0
        expect_true(slope >= 0, f"a slope of {show_number(slope)}", "one of at least 0")
        slack = _NUMERIC * max(1.0, abs(first), abs(last))
        for before, after in pairs:
            due = first + slope * (before - low)
            told = f"{show_number(due)}, on the line through the smallest and the largest"
            expect_true(abs(after - due) <= slack, f"{show_number(after)} for {show_number(before)}", told)


def _constant_is_zero(subject: Subject, case: Estimated) -> None:
    raw = torch.full_like(_raw(case), 1.25)
    if subject.component.scope == "group" and case.group_ids is not None:
        raw = raw + 0.5 * case.group_ids[:, None].to(raw)
    found = subject(_with_raw(case, raw))
    expect_equal(
        found, {"A": torch.zeros_like(raw)}, case.valid, note="where all that count are equal, or there is one"
    )


def _of_groups(component: Component) -> str | None:
    return (
        None if component.scope == "group" and "group_ids" in component.needs() else f"its scope is {component.scope}"
    )


def _reads_groups(component: Component) -> str | None:
    return None if "group_ids" in component.needs() else "it reads no group_ids"


def _law(id_: str, statement: str, reference: str, check: Check, applies: Any = always) -> Property:
    return Property(id_, "normalizer", statement, reference, False, check, applies=applies)


def _claim(id_: str, statement: str, reference: str, check: Check, share: float = 1.0) -> Property:
    return Property(id_, "normalizer", statement, reference, True, check, share=share)


PROPERTIES: list[Property] = [
    _law("value-targets-untouched", "`returns` are what they were, or None", _CONTRACT, _targets_untouched),
    _law(
        "order-kept",
        "within an episode the larger of two advantages does not become the smaller one",
        f"{_CONTRACT}: advantages are shifted and scaled",
        _order_kept,
    ),
    _law(
        "groups-apart",
        "a group gets what it would get without the other groups",
        f"{_CONTRACT}: scope group; TRL commit 35702ce37",
        _groups_isolated,
        _of_groups,
    ),
    _law(
        "group-ids-are-labels",
        "other numbers for the same groups change nothing",
        _CONTRACT,
        _labels_only,
        _reads_groups,
    ),
    _claim("identity", "A stays what it is", "none; the policy gradient theorem asks for no normalisation", _identity),
    _claim("odd", "advantages of the other sign get the answer of the other sign", _STANDARD, _odd, 0.3),
    _claim(
        "shifted-and-scaled",
        "within a unit (the batch, or for scope group the group) A ← a · A + b with one a ≥ 0 and one b",
        _STANDARD,
        _shifted_and_scaled,
    ),
    _claim("mean-zero", "the mean over a unit's steps, or its episodes, is 0", _STANDARD, _mean_zero),
    _claim(
        "unit-deviation",
        "the standard deviation over a unit's steps or episodes, with `ddof`, is std / (std + eps): 1 but for eps",
        _STANDARD,
        _unit_deviation,
    ),
    _claim("shift-invariant", "a number added to all advantages changes nothing", _STANDARD, _shift_invariant, 0.5),
    _claim(
        "scale-invariant",
        "a positive factor on all advantages, and on `eps`, changes nothing",
        _STANDARD,
        _scale_invariant,
        0.4,
    ),
    _claim(
        "constant-is-zero",
        "A ← 0 where all advantages of a unit are equal, or there is one only",
        _STANDARD,
        _constant_is_zero,
        0.3,
    ),
]
