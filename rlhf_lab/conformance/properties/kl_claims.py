"""Claims of role kl that hold for every single sample: signs, symmetries, limits, and what an older policy changes."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import LogProbs, with_fields
from rlhf_lab.conformance.property import Check, Property, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Answer, Subject

__all__ = ["SAMPLE_CLAIMS", "at_reference", "slope_of", "value_of", "with_action", "without_old"]

_SCHULMAN: Final = 'Schulman 2020, "Approximating KL divergence"'
_DEFINED: Final = "Kullback & Leibler 1951"
_RATIO: Final = "DeepSeek-AI 2025 (V3.2), section 3.1"


def slope_of(answer: Answer) -> dict[str, Tensor]:
    """Return the gradient of an answer by its symbol, without the value."""
    return {symbol: x for symbol, x in answer.items() if symbol != "KL"}


def value_of(answer: Answer) -> dict[str, Tensor]:
    """Return the value of an answer, without the gradient."""
    return {"KL": answer["KL"]}


def without_old(case: LogProbs) -> LogProbs:
    """Return the case without an older policy."""
    return with_fields(case, {"old_log_probs": None})


def at_reference(subject: Subject, case: LogProbs) -> Answer:
    """Return the answer where the reference is the policy itself."""
    return subject(with_fields(case, {"ref_log_probs": case.log_probs.clone()}))


def _flat_at_reference(subject: Subject, case: LogProbs) -> None:
    found = slope_of(at_reference(subject, case))
    expect_equal(found, {symbol: torch.zeros_like(x) for symbol, x in found.items()}, note="where π = π_ref")


def _non_negative(subject: Subject, case: LogProbs) -> None:
    least = float(subject(case)["KL"].min())
    expect_true(least >= -1e-12, f"KL = {show_number(least)}", "at least 0")


def _swapped(subject: Subject, case: LogProbs, sign: float) -> None:
    before = subject(without_old(case))["KL"]
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
        alone = subject(without_old(case))["KL"]
        expect_equal(subject(case), {"KL": _ratio(case) * alone}, note="= π/π_old times that without π_old")


def _ratio_carries_gradient(subject: Subject, case: LogProbs) -> None:
    if case.old_log_probs is not None:
        alone = subject(without_old(case))
        due = _ratio(case) * (alone["dKL/dlog_probs"] + alone["KL"])
        expect_equal(subject(case), {"dKL/dlog_probs": due}, note="= that of the product (π/π_old) · KL")


def _ratio_detached(subject: Subject, case: LogProbs) -> None:
    if case.old_log_probs is not None:
        due = _ratio(case) * subject(without_old(case))["dKL/dlog_probs"]
        expect_equal(subject(case), {"dKL/dlog_probs": due}, note="= π/π_old times that without π_old")


def _old_does_not_matter(subject: Subject, case: LogProbs) -> None:
    expect_equal(subject(case), subject(without_old(case)), note="as without π_old")


def _derivative(subject: Subject, case: LogProbs) -> None:
    step = 2.0**-12
    kink = (case.log_probs - case.ref_log_probs).abs() < step
    above, below = (subject(LogProbs(case.log_probs + s, case.ref_log_probs))["KL"] for s in (step, -step))
    due = {"dKL/dlog_probs": (above - below) / (2 * step)}
    expect_equal(subject(without_old(case)), due, ~kink, note="by a central difference", tolerance=1e-5)


def _magnitude(subject: Subject, case: LogProbs) -> None:
    found = subject(without_old(case))["KL"].abs()
    expect_equal({"|KL|": found}, {"|KL|": (case.log_probs - case.ref_log_probs).abs()}, note="= |log(π/π_ref)|")


def _quadratic(subject: Subject, case: LogProbs) -> None:
    before = subject(without_old(case))["KL"]
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
            with_action(case.log_probs, chance),
            with_action(case.ref_log_probs + half, half),
            None if old is None else with_action(old, chance),
        )
        note = f"with one more action of log π = {chance:g}, π_ref = 1/2"
        due = {"KL": before["KL"] - half} | {s: with_action(x, 0.0) for s, x in slope_of(before).items()}
        expect_equal(subject(wider), due, note=note)


def with_action(x: Tensor, value: float) -> Tensor:
    """Return distributions with one more action, or their gradients."""
    return torch.cat([x, torch.full_like(x[..., :1], value)], dim=-1)


def _infinite(subject: Subject, case: LogProbs) -> None:
    reference = case.ref_log_probs.clone()
    reference[..., 0] = -math.inf
    found = subject(with_fields(case, {"ref_log_probs": reference}))["KL"]
    found = found if found.ndim < reference.ndim else found[..., 0]
    expect_true(bool((found == math.inf).all()), f"KL = {show_number(float(found.min()))}", "inf where π_ref = 0 < π")


def _claim(id_: str, statement: str, reference: str, check: Check, share: float = 0.4) -> Property:
    return Property(id_, "kl", statement, reference, True, check, share=share)


SAMPLE_CLAIMS: list[Property] = [
    _claim("non-negative", "KL ≥ 0 for every sample", _SCHULMAN, _non_negative),
    _claim("antisymmetric", "swapping π and π_ref turns the sign of every sample", f"{_SCHULMAN}, k1", _antisymmetric),
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
]
