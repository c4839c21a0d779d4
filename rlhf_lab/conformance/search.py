"""Finding cases where a property fails, and the smallest of them.

Hypothesis draws the cases, once for all laws that share a strategy. A failing case is then made smaller by what a
person would try: fewer rows, fewer steps, no flags, plainer numbers and hyper-parameters. Each try is one call of the
check, and their number is capped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any, Final
from unittest.mock import patch

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.internal.conjecture.providers import HypothesisProvider
from hypothesis.strategies import SearchStrategy, tuples
from torch import Tensor

from rlhf_lab.batch import Batch, BatchError
from rlhf_lab.conformance.inputs import map_fields, take_rows, take_steps, tensors
from rlhf_lab.conformance.strategies import consistent_next_values

__all__ = ["Case", "draw", "shrink", "size"]

_TOGETHER: Final = 10  # drawn in one run, since a run costs more than what it draws
_PLAIN: Final = (1.0, 0.5, 0.0, 2.0, 0.25)  # hyper-parameters that a person would try first


@dataclass(frozen=True, eq=False)
class Case:
    """Hyper-parameters and inputs."""

    parameters: dict[str, Any]
    inputs: Any


@lru_cache(maxsize=16)
def draw(strategy: SearchStrategy[Any], examples: int, start: int) -> list[Any]:
    """Return what a strategy generates, the same for the same ``start``; the plainest first, no example database.

    They are independent: within one run Hypothesis mutates what it drew before, so that a kind of case may fill half of
    a hundred and another have no place. Remembered, so that components with equal strategies share their cases.
    """
    runs = range(math.ceil(examples / _TOGETHER))
    found = [each for n in runs for each in _several(strategy, start * 2**20, n)]
    plainest = _random(strategy, start)[0]
    return [plainest, *found][:examples]


def _several(strategy: SearchStrategy[Any], start: int, run: int) -> list[Any]:
    """Return some examples drawn in one run, or each in a run of its own where they are too large for that."""
    with suppress(Unsatisfiable):
        together = _random(tuples(*[strategy] * _TOGETHER), start + run)
        if len(together) > 1:
            return list(together[-1])
    return [_random(strategy, start - n)[-1] for n in range(run * _TOGETHER, (run + 1) * _TOGETHER)]


def _random(strategy: SearchStrategy[Any], start: int) -> list[Any]:
    """Return the plainest example, with which Hypothesis begins, and a random one where there are others."""
    found: list[Any] = []

    @seed(start)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    # Hypothesis mixes in numbers that it finds in the source of whatever is imported and not installed. By them the
    # cases of one seed would depend on how this package is installed and on what else has been imported.
    with patch.object(HypothesisProvider, "_maybe_draw_constant", lambda *_, **__: None, create=True):
        collect()
    return found


def size(case: Case) -> tuple[float, ...]:
    """Return what makes a case hard to check by hand: steps, rows, flags and digits, most important first."""
    if not isinstance(case.inputs, Batch):
        numbers = case.inputs.values() if isinstance(case.inputs, Mapping) else ()
        return (sum(_digits(x) for x in numbers if isinstance(x, Tensor)),)
    steps = rows = flags = digits = 0.0
    for name, axes, x in tensors(case.inputs):
        rows = max(rows, float(x.shape[0]))
        steps = max(steps, float(x.shape[-1]) if axes == "same" and x.ndim > 1 else 1.0)
        if x.dtype == torch.bool:
            flags += float(x.sum() if name != "valid" else (~x).sum())
        else:
            digits += _digits(x)
    return (steps * rows, steps, rows, flags, digits + sum(_dull(value) for value in case.parameters.values()))


def _digits(x: Tensor) -> float:
    total: float = sum(map(_intricacy, x.flatten().tolist()))
    return total


@cache
def _intricacy(x: float) -> float:
    """Return a number's distance from plainness: 0 for 0, more for fractions and for large and negative numbers."""
    if x == 0 or not math.isfinite(x):
        return 0.0
    fraction = sum((x * 2.0**k) % 1 != 0 for k in range(4))
    return 1 + fraction + math.log1p(min(abs(x), 1e6)) + 0.5 * (x < 0)


def _dull(value: Any) -> float:
    return float(_PLAIN.index(value)) if value in _PLAIN else 5.0


def shrink(case: Case, fails: Callable[[Case], bool], choices: Mapping[str, list[Any]], calls: int) -> Case:
    """Return a smaller case that still fails, after at most so many calls of ``fails``.

    ``choices`` are the values to try for each hyper-parameter, plain ones first.
    """
    search = _Shrinking(case, fails, calls)
    while search.once(choices):
        pass
    return search.best


class _Shrinking:
    """The smallest failing case so far, and how many tries are left."""

    def __init__(self, case: Case, fails: Callable[[Case], bool], calls: int) -> None:
        self.best = case
        self._fails = fails
        self._left = calls

    def once(self, choices: Mapping[str, list[Any]]) -> bool:
        """Try everything once, from the coarse to the fine; return whether anything helped and tries are left."""
        before = self.best
        if isinstance(self.best.inputs, Batch):
            self._rows()
            self._steps()
        self._parameters(choices)
        if isinstance(self.best.inputs, Batch) and _first(self.best.inputs).ndim < 3:  # distributions sum to one
            self._flags()
            self._numbers()
        return self.best is not before and self._left > 0

    def _try(self, inputs: Any, parameters: dict[str, Any] | None = None) -> bool:
        """Return whether other inputs or hyper-parameters fail too, and go on from them if so."""
        if self._left <= 0:
            return False
        if parameters is None:
            inputs = _repaired(inputs)
            if inputs is None or _same(inputs, self.best.inputs):
                return False
        candidate = Case(self.best.parameters if parameters is None else parameters, inputs)
        self._left -= 1
        if not self._fails(candidate):
            return False
        self.best = candidate
        return True

    def _rows(self) -> None:
        rows = len(_first(self.best.inputs))
        if rows > 1 and any(self._try(take_rows(self.best.inputs, [row])) for row in range(rows)):
            return
        for row in reversed(range(rows)):
            rest = [r for r in range(len(_first(self.best.inputs))) if r != row]
            if len(rest) > 1:
                self._try(take_rows(self.best.inputs, rest))

    def _steps(self) -> None:
        if _first(self.best.inputs).ndim != 2:
            return
        steps = _first(self.best.inputs).shape[1]
        for part in (range(steps // 2, steps), range(steps // 2)):
            if 0 < len(part) < steps and self._try(take_steps(self.best.inputs, list(part))):
                break
        for step in reversed(range(_first(self.best.inputs).shape[1])):
            rest = [t for t in range(_first(self.best.inputs).shape[1]) if t != step]
            if rest:
                self._try(take_steps(self.best.inputs, rest))

    def _parameters(self, choices: Mapping[str, list[Any]]) -> None:
        for name, values in choices.items():
            for value in values:
                now = self.best.parameters.get(name)
                if value is now or value == now:
                    break
                if self._try(self.best.inputs, {**self.best.parameters, name: value}):
                    break

    def _flags(self) -> None:
        for name, _, x in tensors(self.best.inputs):
            if x.dtype == torch.bool:
                plain = name == "valid"
                for index in (x != plain).nonzero():
                    self._try(_put(self.best.inputs, name, index, plain))

    def _numbers(self) -> None:
        for name, _, x in tensors(self.best.inputs):
            if x.dtype == torch.bool or self._try(_with(self.best.inputs, name, torch.zeros_like(x))):
                continue
            for index in (x != 0).nonzero():
                value = float(x[tuple(index)])
                small = (0.0, 1.0, -1.0, 2.0, -2.0) if abs(value) > 2 else (0.0, 1.0, -1.0)
                rounded = (float(round(value)), round(2 * value) / 2, round(4 * value) / 4)
                for plain in dict.fromkeys((*small, *rounded)):
                    if plain == value or self._try(_put(self.best.inputs, name, index, plain)):
                        break


def _first(batch: Batch) -> Tensor:
    return next(x for _, _, x in tensors(batch))


def _same(first: Batch, second: Batch) -> bool:
    pairs = zip(tensors(first), tensors(second), strict=True)
    return all(torch.equal(x, y) for (_, _, x), (_, _, y) in pairs)


def _put(batch: Any, name: str, index: Tensor, value: float | bool) -> Any:
    changed = getattr(batch, name).clone()
    changed[tuple(index)] = value
    return _with(batch, name, changed)


def _with(batch: Any, name: str, value: Tensor) -> Any:
    return map_fields(batch, lambda other, _, x: value if other == name else x)


def _repaired(batch: Any) -> Any:
    """Return the batch with consistent flags and ``next_values``, or None where it breaks its contract."""
    given = {item.name: getattr(batch, item.name) for item in fields(batch)}
    if "terminated" in given:
        given |= {name: given[name] & given["valid"] for name in ("terminated", "truncated")}
        if given["next_values"] is not None and given["values"] is not None:
            ends = given["terminated"] | given["truncated"]
            given["next_values"] = consistent_next_values(given["values"], given["next_values"], given["valid"], ends)
    elif "ends" in given:
        given["ends"] = given["ends"] & given["valid"]
    try:
        return type(batch)(**given)
    except BatchError:
        return None
