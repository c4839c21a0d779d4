"""Laws of role value, which every sensible critic loss obeys, and what one may claim.

Throughout V is the value, R the return it should have, V_old the value when the data was collected, e = V − R the
error, L the loss and g its gradient dL/dV.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import map_fields, with_fields
from rlhf_lab.conformance.properties.losses import (
    answered,
    every_step_counts_once,
    gradient_of_its_value,
    some_gradient,
)
from rlhf_lab.conformance.property import Property, Violation, expect_equal, show_number
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import ValueBatch

__all__ = ["PROPERTIES"]

_LEVELS: Final = ("values", "returns", "old_values")
_UNITS: Final = ("clip", "delta")  # parameters that are measured in returns
_FAR: Final = 2.0**40  # a bound that nothing reaches; infinity itself is refused by many
_NEAR: Final = 1e-9


def _error(case: ValueBatch) -> Tensor:
    return case.values - case.returns


def _unmoved(case: ValueBatch, **changes: Tensor) -> ValueBatch:
    """Return the batch with the old values equal to the values, after some changes."""
    changed = with_fields(case, changes) if changes else case
    return changed if case.old_values is None else with_fields(changed, {"old_values": changed.values.clone()})


def _levels(case: ValueBatch, change: Callable[[Tensor], Tensor]) -> ValueBatch:
    return map_fields(case, lambda name, _, x: change(x) if name in _LEVELS else x)


def _towards_target(subject: Subject, case: ValueBatch) -> None:
    here = _unmoved(case)
    slope, error = subject(here)["dL/dvalues"], _error(here)
    due = torch.where(error > 0, slope.clamp(min=0), slope.clamp(max=0))
    where = case.valid & (error != 0)
    expect_equal({"dL/dvalues": slope}, {"dL/dvalues": due}, where, note="or of the sign of V − R (at V = V_old)")


def _best_at_target(subject: Subject, case: ValueBatch) -> None:
    best = subject(_unmoved(case, values=case.returns.clone()))["L"]
    here = subject(_unmoved(case))["L"]
    expect_equal({"L": best}, {"L": torch.minimum(best, here)}, case.valid, note="for V = R, at most what V has now")


def _zero_at_target(subject: Subject, case: ValueBatch) -> None:
    answer, zero = subject(_unmoved(case, values=case.returns.clone())), torch.zeros_like(case.values)
    expect_equal(answer, {"L": zero, "dL/dvalues": zero}, case.valid, note="for V = R = V_old")


def _non_negative(subject: Subject, case: ValueBatch) -> None:
    answer = subject(case)
    expect_equal(answer, {"L": answer["L"].clamp(min=0)}, case.valid, note="or more")


def _at_least_mse(subject: Subject, case: ValueBatch) -> None:
    answer = subject(case)
    expect_equal(answer, {"L": torch.maximum(answer["L"], 0.5 * _error(case) ** 2)}, case.valid, note="= ½ e² or more")


def _at_most_mse(subject: Subject, case: ValueBatch) -> None:
    answer = subject(case)
    expect_equal(answer, {"L": torch.minimum(answer["L"], 0.5 * _error(case) ** 2)}, case.valid, note="= ½ e² or less")


def _is_mse(subject: Subject, case: ValueBatch, where: Tensor, note: str) -> None:
    error = _error(case)
    expect_equal(subject(case), {"L": 0.5 * error**2, "dL/dvalues": error}, where & case.valid, note=note)


def _gradient_is_error(subject: Subject, case: ValueBatch) -> None:
    expect_equal(subject(case), {"dL/dvalues": _error(case)}, case.valid, note="= V − R")


def _unmoved_is_mse(subject: Subject, case: ValueBatch) -> None:
    _is_mse(subject, _unmoved(case), case.valid, "of mse, for V = V_old")


def _infinite_is_mse(subject: Subject, case: ValueBatch) -> None:
    bounds = {name: _FAR for name in _UNITS if subject.has(name)}
    if not bounds:
        raise Violation("no parameter clip or delta", "one, which the claim is about; `conventions` names yours")
    _is_mse(subject.of(**bounds), case, case.valid, "of mse, without a bound")


def _small_is_mse(subject: Subject, case: ValueBatch) -> None:
    small = _error(case).abs() <= subject.parameter("delta", 1.0)
    _is_mse(subject, case, small, "of mse, for a small error")


def _gradient_is_bounded_error(subject: Subject, case: ValueBatch) -> None:
    delta = subject.parameter("delta", 1.0)
    due = _error(case).clamp(-delta, delta)
    expect_equal(subject(case), {"dL/dvalues": due}, case.valid, note=f"= the error held within ±{delta:g}")


def _near_absolute_error(subject: Subject, case: ValueBatch) -> None:
    delta = 2.0**-20
    answer = subject.of(delta=delta)(case)
    scaled = {"L/delta": answer["L"] / delta}
    expect_equal(scaled, {"L/delta": _error(case).abs()}, case.valid, note="≈ |e| for a small delta", tolerance=1e-6)


def _mean_minimises(subject: Subject, case: ValueBatch) -> None:
    """Put ``n`` returns R and one return R' before a state whose value is their mean."""
    for n in (1, 3):
        other = case.returns.flip(0, -1) + 1
        mean = (n * case.returns + other) / (n + 1)
        slopes = [subject(_unmoved(case, values=mean, returns=x))["dL/dvalues"] for x in (case.returns, other)]
        pull = {"Σ dL/dV": n * slopes[0] + slopes[1]}
        note = f"at the mean of {n} returns R and one R' = {other.tolist()}"
        expect_equal(pull, {"Σ dL/dV": torch.zeros_like(mean)}, case.valid & case.valid.flip(0, -1), note=note)


def _minimiser(subject: Subject) -> str:
    """Tell the value that is best for three returns 0 and one return 4, by bisection."""
    returns = torch.tensor([[0.0, 0.0, 0.0, 4.0]], dtype=torch.float64)
    full = torch.ones_like(returns, dtype=torch.bool)
    low, high = 0.0, 4.0
    for _ in range(40):
        value = torch.full_like(returns, (low + high) / 2)
        answer = subject(ValueBatch(value, returns, full, full.clone(), old_values=value.clone()))
        low, high = (low, float(value[0, 0])) if answer["dL/dvalues"].sum() > 0 else (float(value[0, 0]), high)
    return f"for the returns 0, 0, 0 and 4 the best value is {show_number(high, 3)}; their mean is 1"


def _mirrored(subject: Subject, case: ValueBatch) -> None:
    answer, mirrored = subject(case), subject(_levels(case, torch.neg))
    due = {"L": answer["L"], "dL/dvalues": -answer["dL/dvalues"]}
    expect_equal(mirrored, due, case.valid, note="as with V, R and V_old of the other sign")


def _shifted(subject: Subject, case: ValueBatch) -> None:
    moved = subject(_levels(case, lambda x: x + 2.5))
    due = {symbol: x for symbol, x in subject(case).items() if symbol != "weights"}
    expect_equal(moved, due, case.valid, note="as before V, R and V_old rose by 2.5")


def _scaled(subject: Subject, case: ValueBatch) -> None:
    units = {name: 4 * subject.parameter(name) for name in _UNITS if subject.has(name)}
    found = (subject.of(**units) if units else subject)(_levels(case, lambda x: 4 * x))
    due = {"L": 16 * subject(case)["L"], "dL/dvalues": 4 * subject(case)["dL/dvalues"]}
    expect_equal(found, due, case.valid, note="= 16 L and 4 g, in units a quarter as large")


def _held(subject: Subject, case: ValueBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the error, the error of the value held near the old one, and whether the value moved beyond."""
    clip = subject.parameter("clip", 0.2)
    if case.old_values is None:
        raise Violation("old_values not read", "a component that compares with the old values")
    moved = case.values - case.old_values
    held = case.old_values + moved.clamp(-clip, clip) - case.returns
    return _error(case), held, moved.abs() > clip + _NEAR


def _held_value(subject: Subject, case: ValueBatch) -> None:
    error, held, _ = _held(subject, case)
    due = 0.5 * torch.maximum(error**2, held**2)
    expect_equal(subject(case), {"L": due}, case.valid, note="= half the larger of two squared errors")


def _held_support(subject: Subject, case: ValueBatch) -> None:
    error, held, moved = _held(subject, case)
    gap = held**2 - error**2
    due = torch.where(moved & (gap > 0), torch.zeros_like(error), error)
    kink = (moved & (gap.abs() <= _NEAR)) | _on_edge(subject, case)
    expect_equal(subject(case), {"dL/dvalues": due}, case.valid & ~kink, note="= V − R, or 0 where the clip acts")


def _on_edge(subject: Subject, case: ValueBatch) -> Tensor:
    assert case.old_values is not None
    distance = (case.values - case.old_values).abs() - float(subject.parameter("clip", 0.2))
    return distance.abs() <= _NEAR


def _law(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    return Property(id_, "value", statement, reference, False, answered(check), **options)


def _claim(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    return Property(id_, "value", statement, reference, True, answered(check), **options)


_SUTTON: Final = "Sutton & Barto 2018, eq. 9.1"
_PPO2: Final = "Dhariwal et al. 2017 (OpenAI Baselines, ppo2); Huang et al. 2022, detail 9"

PROPERTIES: list[Property] = [
    some_gradient("value"),
    _law("never-away-from-target", "at V = V_old, g is 0 or has the sign of V − R", _SUTTON, _towards_target),
    _law("best-at-target", "with V_old = V, no value has a smaller loss than V = R", _SUTTON, _best_at_target),
    every_step_counts_once("value"),
    gradient_of_its_value("value", "values"),
    _claim("zero-at-target", "L = g = 0 at V = R = V_old", _SUTTON, _zero_at_target),
    _claim("non-negative", "L ≥ 0", _SUTTON, _non_negative),
    _claim("at-least-mse", "L ≥ ½ e²", _PPO2, _at_least_mse),
    _claim("at-most-mse", "L ≤ ½ e²", "Huber 1964", _at_most_mse),
    _claim("gradient-is-the-error", "g = V − R", _SUTTON, _gradient_is_error),
    _claim(
        "mean-minimises",
        "at V = V_old the pulls of several returns cancel where V is their mean: the optimum is the expected return",
        _SUTTON,
        _mean_minimises,
        measure=_minimiser,
        share=0.5,
    ),
    _claim("even-in-the-error", "with V, R and V_old negated, L stays and g is negated", _SUTTON, _mirrored, share=0.5),
    _claim("depends-on-differences-only", "adding a number to V, R and V_old changes nothing", _SUTTON, _shifted),
    _claim(
        "units-do-not-matter",
        "with V, R, V_old and the component's clip or delta c times as large, L is c² and g is c times as large",
        "Engstrom et al. 2020, section 3",
        _scaled,
        share=0.5,
    ),
    _claim("unmoved-is-mse", "at V = V_old, L = ½ e² and g = e", _PPO2, _unmoved_is_mse),
    _claim("unbounded-is-mse", "with an infinite clip or delta, L = ½ e² and g = e", _PPO2, _infinite_is_mse),
    _claim("is-the-larger-error", "L = ½ max(e², (V_old + clip(V − V_old) − R)²)", _PPO2, _held_value),
    _claim(
        "clip-gradient-support",
        "g = 0 exactly where |V − V_old| > clip and the held value is farther from R; elsewhere g = V − R",
        _PPO2,
        _held_support,
    ),
    _claim("small-error-is-mse", "where |e| ≤ delta, L = ½ e² and g = e", "Huber 1964", _small_is_mse),
    _claim("gradient-is-bounded-error", "g = clip(e, −delta, delta)", "Huber 1964", _gradient_is_bounded_error),
    _claim("small-delta-is-absolute-error", "L / delta → |e| as delta → 0", "Huber 1964", _near_absolute_error),
]
