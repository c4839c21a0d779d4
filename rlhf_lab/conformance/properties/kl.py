"""Laws and claims of role kl that hold for every single action; those about expectations: see ``kl_expectations``."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.conformance.inputs import LogProbs, with_fields
from rlhf_lab.conformance.kl_cases import far_apart
from rlhf_lab.conformance.properties.kl_expectations import EXPECTATIONS
from rlhf_lab.conformance.property import Check, Property, always, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Answer, Subject

__all__ = ["PROPERTIES"]

_CONTRACT: Final = "contract of rlhf_lab"
_SCHULMAN: Final = 'Schulman 2020, "Approximating KL divergence"'
_DEFINED: Final = "Kullback & Leibler 1951"
_RATIO: Final = "DeepSeek-AI 2025 (V3.2), section 3.1"


def _slope(answer: Answer) -> dict[str, Tensor]:
    return {symbol: x for symbol, x in answer.items() if symbol != "KL"}


def _value(answer: Answer) -> dict[str, Tensor]:
    return {"KL": answer["KL"]}


def _on_policy(case: LogProbs) -> LogProbs:
    return with_fields(case, {"old_log_probs": None})


def _at_reference(subject: Subject, case: LogProbs) -> Answer:
    return subject(with_fields(case, {"ref_log_probs": case.log_probs.clone()}))


def _zero_at_reference(subject: Subject, case: LogProbs) -> None:
    found = _value(_at_reference(subject, case))
    expect_equal(found, {"KL": torch.zeros_like(found["KL"])}, note="where π = π_ref")


def _flat_at_reference(subject: Subject, case: LogProbs) -> None:
    found = _slope(_at_reference(subject, case))
    expect_equal(found, {symbol: torch.zeros_like(x) for symbol, x in found.items()}, note="where π = π_ref")


def _same_old_policy(subject: Subject, case: LogProbs) -> None:
    same = subject(with_fields(case, {"old_log_probs": case.log_probs.clone()}))
    expect_equal(same, _value(subject(_on_policy(case))), note="as without π_old, since π_old = π")


def _finite(subject: Subject, case: LogProbs) -> None:
    for symbol, x in subject(case).items():
        expect_true(bool(x.isfinite().all()), f"{symbol} = {x[~x.isfinite()].tolist()}", "finite numbers")


def _non_negative(subject: Subject, case: LogProbs) -> None:
    least = float(subject(case)["KL"].min())
    expect_true(least >= -1e-12, f"KL = {show_number(least)}", "at least 0")


def _swapped(subject: Subject, case: LogProbs, sign: float) -> None:
    before = subject(_on_policy(case))["KL"]
    after = subject(LogProbs(case.ref_log_probs, case.log_probs))
    expect_equal(after, {"KL": sign * before}, note="with π and π_ref swapped")


def _antisymmetric(subject: Subject, case: LogProbs) -> None:
    _swapped(subject, case, -1.0)


def _symmetric(subject: Subject, case: LogProbs) -> None:
    _swapped(subject, case, 1.0)


def _only_ratios(subject: Subject, case: LogProbs) -> None:
    before = subject(case)
    old = case.old_log_probs
    lower = LogProbs(case.log_probs - 1024, case.ref_log_probs - 1024, None if old is None else old - 1024)
    expect_equal(subject(lower), before, note="as before all log-probabilities became 1024 lower")


def _ratio(case: LogProbs) -> Tensor:
    assert case.old_log_probs is not None
    return (case.log_probs - case.old_log_probs).exp()


def _weighed(subject: Subject, case: LogProbs) -> None:
    if case.old_log_probs is not None:
        alone = subject(_on_policy(case))["KL"]
        expect_equal(subject(case), {"KL": _ratio(case) * alone}, note="= π/π_old times that without π_old")


def _ratio_carries_gradient(subject: Subject, case: LogProbs) -> None:
    if case.old_log_probs is not None:
        alone = subject(_on_policy(case))
        due = _ratio(case) * (alone["dKL/dlog_probs"] + alone["KL"])
        expect_equal(subject(case), {"dKL/dlog_probs": due}, note="= that of the product (π/π_old) · KL")


def _ratio_detached(subject: Subject, case: LogProbs) -> None:
    if case.old_log_probs is not None:
        due = _ratio(case) * subject(_on_policy(case))["dKL/dlog_probs"]
        expect_equal(subject(case), {"dKL/dlog_probs": due}, note="= π/π_old times that without π_old")


def _old_does_not_matter(subject: Subject, case: LogProbs) -> None:
    expect_equal(subject(case), subject(_on_policy(case)), note="as without π_old")


def _derivative(subject: Subject, case: LogProbs) -> None:
    step = 2.0**-12
    kink = (case.log_probs - case.ref_log_probs).abs() < step
    above, below = (subject(LogProbs(case.log_probs + s, case.ref_log_probs))["KL"] for s in (step, -step))
    due = {"dKL/dlog_probs": (above - below) / (2 * step)}
    expect_equal(subject(_on_policy(case)), due, ~kink, note="by a central difference", tolerance=1e-5)


def _magnitude(subject: Subject, case: LogProbs) -> None:
    found = subject(_on_policy(case))["KL"].abs()
    expect_equal({"|KL|": found}, {"|KL|": (case.log_probs - case.ref_log_probs).abs()}, note="= |log(π/π_ref)|")


def _quadratic(subject: Subject, case: LogProbs) -> None:
    before = subject(_on_policy(case))["KL"]
    ratio = case.log_probs - case.ref_log_probs
    twice = subject(LogProbs(case.log_probs, case.log_probs - 2 * ratio))
    expect_equal(twice, {"KL": 4 * before}, note="= four times that of half the log-ratio")


def _near(subject: Subject, case: LogProbs, ratio: float, tolerance: float) -> None:
    """Compare with ½ log²(π/π_ref) where the log-ratio is small, to a relative tolerance."""
    for small in (ratio, -ratio):
        found = subject(LogProbs(case.log_probs, case.log_probs - small))["KL"] / (small**2 / 2)
        note = f"where log(π/π_ref) = {show_number(small)}"
        expect_equal({"KL / ½ log²": found}, {"KL / ½ log²": torch.ones_like(found)}, note=note, tolerance=tolerance)


def _half_square(subject: Subject, case: LogProbs) -> None:
    _near(subject, case, 0.003, 0.003)


def _precise(subject: Subject, case: LogProbs) -> None:
    _near(subject, case, 0.9e-6, 1e-6)  # no dyadic number, of which even a difference that cancels is exact


def _impossible_actions(subject: Subject, case: LogProbs) -> None:
    before = subject(case)
    half = math.log(0.5)  # of π_ref goes to an action that π never or hardly takes
    for chance in (-math.inf, -1024.0):
        old = case.old_log_probs
        wider = LogProbs(
            _with_action(case.log_probs, chance),
            _with_action(case.ref_log_probs + half, half),
            None if old is None else _with_action(old, chance),
        )
        note = f"with one more action of log π = {chance:g}, π_ref = 1/2"
        due = {"KL": before["KL"] - half} | {s: _with_action(x, 0.0) for s, x in _slope(before).items()}
        expect_equal(subject(wider), due, note=note)


def _left_out(subject: Subject, case: LogProbs) -> None:
    before, old = subject(case), case.old_log_probs
    wider = LogProbs(
        _with_action(case.log_probs, -math.inf),
        _with_action(case.ref_log_probs, -math.inf),
        None if old is None else _with_action(old, -math.inf),
    )
    due = _value(before) | {symbol: _with_action(x, 0.0) for symbol, x in _slope(before).items()}
    expect_equal(subject(wider), due, note="as without an action that is impossible under all policies")


def _with_action(x: Tensor, value: float) -> Tensor:
    return torch.cat([x, torch.full_like(x[..., :1], value)], dim=-1)


def _infinite(subject: Subject, case: LogProbs) -> None:
    reference = case.ref_log_probs.clone()
    reference[..., 0] = -math.inf
    found = subject(with_fields(case, {"ref_log_probs": reference}))["KL"]
    found = found if found.ndim < reference.ndim else found[..., 0]
    expect_true(bool((found == math.inf).all()), f"KL = {show_number(float(found.min()))}", "inf where π_ref = 0 < π")


_FAR_APART: Final = {whole: far_apart(distributions=whole) for whole in (False, True)}


def _extremes(component: Component) -> Any:
    return _FAR_APART[_is_whole(component) is None]


def _is_whole(component: Component) -> str | None:
    return None if getattr(component, "distributions", False) else "it sees no distributions"


def _law(
    id_: str, statement: str, reference: str, check: Check, cases: Any = None, applies: Any = always
) -> Property:
    return Property(id_, "kl", statement, reference, False, check, cases=cases, applies=applies, share=0.5)


def _claim(id_: str, statement: str, reference: str, check: Check, share: float = 0.4) -> Property:
    return Property(id_, "kl", statement, reference, True, check, share=share)


PROPERTIES: list[Property] = [
    _law(
        "zero-at-the-reference",
        "KL = 0 where π = π_ref",
        f"{_DEFINED}; OpenRLHF commit feeb0283",
        _zero_at_reference,
    ),
    _law(
        "old-policy-equal-to-policy",
        "with π_old = π the value is that without π_old",
        _CONTRACT,
        _same_old_policy,
    ),
    _law(
        "finite-at-extremes",
        "value and gradient are finite for log-probabilities down to −1024 and up to 30 apart",
        _CONTRACT,
        _finite,
        _extremes,
    ),
    _law(
        "impossible-actions-left-out",
        "an action of probability 0 under all policies changes nothing, and its gradient is 0",
        f"{_CONTRACT}; {_DEFINED}: 0 log 0 = 0",
        _left_out,
        None,
        _is_whole,
    ),
    _claim("non-negative", "KL ≥ 0 for every sample", _SCHULMAN, _non_negative),
    _claim(
        "antisymmetric", "swapping π and π_ref turns the sign of every sample", f"{_SCHULMAN}, k1", _antisymmetric
    ),
    _claim("symmetric", "swapping π and π_ref changes no sample", f"{_SCHULMAN}, k2", _symmetric),
    _claim(
        "flat-at-the-reference",
        "the gradient of every sample is 0 where π = π_ref, the minimum",
        _SCHULMAN,
        _flat_at_reference,
    ),
    _claim(
        "only-log-ratios-count",
        "a common shift of all log-probabilities, as far as exp underflows, changes neither value nor gradient",
        _SCHULMAN,
        _only_ratios,
    ),
    _claim(
        "weighed-by-the-policy-ratio",
        "with `old_log_probs` the value is π/π_old times the value without",
        _RATIO,
        _weighed,
    ),
    _claim(
        "policy-ratio-carries-gradient",
        "with `old_log_probs` the gradient is that of the product (π/π_old) · KL",
        _RATIO,
        _ratio_carries_gradient,
    ),
    _claim(
        "policy-ratio-detached",
        "with `old_log_probs` the gradient is π/π_old times the gradient without",
        "Tang & Munos 2025",
        _ratio_detached,
    ),
    _claim(
        "old-policy-does-not-matter",
        "`old_log_probs` changes neither value nor gradient: the sum is over all actions, whoever chose one",
        _DEFINED,
        _old_does_not_matter,
    ),
    _claim(
        "gradient-is-derivative",
        "without `old_log_probs` the gradient of every sample is the derivative of its value in log π",
        _SCHULMAN,
        _derivative,
    ),
    _claim(
        "as-large-as-the-log-ratio",
        "without `old_log_probs` |KL| = |log(π/π_ref)|",
        f"{_SCHULMAN}, k1",
        _magnitude,
    ),
    _claim(
        "quadratic-in-the-log-ratio",
        "without `old_log_probs` twice the log-ratio gives four times the value",
        f"{_SCHULMAN}, k2",
        _quadratic,
    ),
    _claim(
        "half-square-near-the-reference",
        "KL = ½ log²(π/π_ref) up to higher orders",
        f"{_SCHULMAN}, k2 and k3",
        _half_square,
    ),
    _claim(
        "precise-near-the-reference",
        "KL = ½ log²(π/π_ref) to six digits at a log-ratio of 1e-6: nothing cancels",
        _SCHULMAN,
        _precise,
        0.2,
    ),
    _claim(
        "impossible-actions-count-nothing",
        "an action of probability 0, or so low that it underflows, adds 0 to value and gradient",
        f"{_DEFINED}: 0 log 0 = 0",
        _impossible_actions,
    ),
    _claim(
        "infinite-without-reference-support",
        "KL = inf where an action with π > 0 has π_ref = 0",
        _DEFINED,
        _infinite,
        0.2,
    ),
    *EXPECTATIONS,
]
