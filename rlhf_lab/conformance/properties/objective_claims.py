"""What a policy objective may claim of how its loss depends on advantages and log-probabilities.

Throughout L is the loss of a step, g its gradient dL/dlog π, A its advantage and ρ = π / π_old.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.properties.losses import answered, every_step_counts_once, gradient_of_its_value
from rlhf_lab.conformance.properties.policy_cases import (
    crossed,
    expect_slope,
    log_ratio,
    on_policy,
    shifted,
    with_advantages,
)
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Answer, Subject
from rlhf_lab.types import PolicyBatch

__all__ = ["CLAIMS", "claim"]

_RATIO_FIELDS = ("log_probs", "old_log_probs", "behaviour_log_probs", "ref_log_probs")
_SYMBOLS = ("L", "dL/dlog_probs")


def _on_policy_value(subject: Subject, case: PolicyBatch) -> None:
    here = on_policy(case)
    expect_equal(subject(here), {"L": -here.advantages}, here.valid, note="= −A at π = π_old")


def _on_policy_gradient(subject: Subject, case: PolicyBatch) -> None:
    here = on_policy(case)
    expect_slope(subject, here, -here.advantages, note="= −A at π = π_old")


def _never_against(subject: Subject, case: PolicyBatch) -> None:
    here = on_policy(case)
    slope = subject(here)["dL/dlog_probs"]
    due = torch.where(here.advantages > 0, slope.clamp(max=0), slope.clamp(min=0))
    due = torch.where(here.advantages == 0, torch.zeros_like(due), due)
    expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": due}, here.valid, note="or of the sign of −A")


def _zero_advantage(subject: Subject, case: PolicyBatch) -> None:
    zero = torch.zeros_like(case.advantages)
    expect_equal(subject(with_advantages(case, zero)), {"dL/dlog_probs": zero}, case.valid, note="at A = 0")


def _homogeneous(subject: Subject, case: PolicyBatch) -> None:
    for factor in (4.0, 0.125):
        scaled = subject(with_advantages(case, factor * case.advantages))
        note = f"= {factor:g} times as much for {factor:g} A"
        expect_equal(scaled, _times(factor, subject(case)), case.valid, note=note)


def _linear(subject: Subject, case: PolicyBatch) -> None:
    other = case.advantages.flip(0, -1) - 1
    first, second = subject(case), subject(with_advantages(case, other))
    both = subject(with_advantages(case, case.advantages + other))
    note = f"= the sum of what A and A' = {other.tolist()} get, for A + A'"
    expect_equal(both, {s: first[s] + second[s] for s in _SYMBOLS}, case.valid, note=note)


def _linear_in_log_probs(subject: Subject, case: PolicyBatch) -> None:
    doubled = subject(with_fields(case, {"log_probs": 2 * case.log_probs}))
    expect_equal(doubled, {"L": 2 * subject(case)["L"]}, case.valid, note="= twice as much for twice log π")


def _independent(subject: Subject, case: PolicyBatch) -> None:
    moved = subject(shifted(case, -1.0, "log_probs"))
    note = "as before log π fell by 1"
    expect_equal(moved, {"dL/dlog_probs": subject(case)["dL/dlog_probs"]}, case.valid, note=note)


def _ratios_only(subject: Subject, case: PolicyBatch) -> None:
    moved = subject(shifted(case, -1.5, *_RATIO_FIELDS))
    before = {s: subject(case)[s] for s in _SYMBOLS}
    expect_equal(moved, before, case.valid, note="as before all log-probabilities fell by 1.5")


def _linear_in_ratio(subject: Subject, case: PolicyBatch) -> None:
    more = subject(shifted(case, 1.0, "log_probs"))
    expect_equal(more, _times(torch.e, subject(case)), case.valid, note="= e times as much for log π + 1")


def _value_times_score(subject: Subject, case: PolicyBatch) -> None:
    answer = subject(case)
    due = answer["dL/dlog_probs"] * case.log_probs
    expect_equal(answer, {"L": due}, case.valid, note="= g log π")


def _gradient_everywhere(subject: Subject, case: PolicyBatch) -> None:
    slope = subject(case)["dL/dlog_probs"]
    due = torch.where((slope == 0) & (case.advantages != 0), -case.advantages, slope)
    expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": due}, case.valid, note="or of its sign, but not 0")


def _pessimistic(subject: Subject, case: PolicyBatch) -> None:
    answer, bound = subject(case), -log_ratio(subject, case).exp() * case.advantages
    expect_equal(answer, {"L": torch.maximum(answer["L"], bound)}, case.valid, note="= −ρ A, or more")


def _entropy_bonus(subject: Subject, case: PolicyBatch) -> None:
    coef = subject.parameter("entropy_coef", 0.01)
    assert case.entropy is not None
    without = subject(with_fields(case, {"entropy": torch.zeros_like(case.entropy)}))
    due = {"L": without["L"] - coef * case.entropy, "dL/dlog_probs": without["dL/dlog_probs"]}
    slope = torch.full_like(case.entropy, -coef)
    expect_equal(subject(case), {**due, "dL/dentropy": slope}, case.valid, note=f"for entropy_coef = {coef:g}")


def _times(factor: float, answer: Answer) -> Mapping[str, Tensor]:
    return {symbol: factor * answer[symbol] for symbol in _SYMBOLS}


def claim(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    """Return a claim on policy objectives; its cases are ``crossed`` unless it says otherwise."""
    return Property(
        id_, "objective", statement, reference, True, answered(check), **{"cases": crossed, "share": 0.25, **options}
    )


CLAIMS: list[Property] = [
    every_step_counts_once("objective"),
    gradient_of_its_value("objective", "log_probs"),
    claim(
        "on-policy-value",
        "at π = π_old the value is L = −A",
        "Schulman et al. 2017, eq. 6",
        _on_policy_value,
    ),
    claim(
        "on-policy-gradient",
        "at π = π_old (= π_ref) the gradient is g = −A, that of the policy gradient",
        "Williams 1992, theorem 1; Schulman et al. 2015, eq. 4",
        _on_policy_gradient,
    ),
    claim(
        "never-against-advantage",
        "at π = π_old (= π_ref) the gradient g is 0 or has the sign of −A",
        "Sutton & Barto 2018, section 13.3",
        _never_against,
    ),
    claim(
        "zero-advantage-zero-gradient",
        "where A = 0 the gradient is 0, whatever the ratio",
        "Schulman et al. 2017, eq. 7",
        _zero_advantage,
    ),
    claim(
        "homogeneous-in-advantages",
        "L(c A) = c L(A) for c > 0, and so of the gradient: the scale of advantages is one of the learning rate",
        "Schulman et al. 2017, eq. 7",
        _homogeneous,
    ),
    claim(
        "linear-in-advantages",
        "L(A + A') = L(A) + L(A'), and so of the gradient",
        "Sutton & Barto 2018, eq. 13.8",
        _linear,
    ),
    claim(
        "linear-in-log-probs",
        "L(2 log π) = 2 L(log π) for the same samples",
        "Williams 1992, theorem 1",
        _linear_in_log_probs,
    ),
    claim(
        "gradient-independent-of-log-probs",
        "g does not depend on log π: no ratio weighs the step",
        "Williams 1992, theorem 1",
        _independent,
    ),
    claim(
        "depends-on-ratios-only",
        "adding a number to all log-probabilities of a step changes neither L nor g",
        "Schulman et al. 2015, eq. 14",
        _ratios_only,
    ),
    claim(
        "linear-in-ratio",
        "L(c ρ) = c L(ρ), and so of the gradient",
        "Schulman et al. 2015, eq. 14",
        _linear_in_ratio,
    ),
    claim(
        "value-is-gradient-times-log-prob",
        "L = g log π: a score-function loss, whose weight carries no gradient",
        "Williams 1992, theorem 1; verl issue 4105",
        _value_times_score,
        cases=None,
        share=1.0,
    ),
    claim(
        "gradient-everywhere",
        "g is not 0 where A is not 0, whatever the ratio",
        "Chen et al. 2025 (MiniMax-M1), section 3.1",
        _gradient_everywhere,
        cases=None,
        share=1.0,
    ),
    claim(
        "pessimistic-bound",
        "L ≥ −ρ A: the loss is never below that of the unclipped surrogate",
        "Schulman et al. 2017, section 3",
        _pessimistic,
        cases=None,
        share=1.0,
    ),
    claim(
        "entropy-bonus-is-linear",
        "L = L(H = 0) − entropy_coef H",
        "Mnih et al. 2016, section 4",
        _entropy_bonus,
        reads=frozenset({"entropy"}),
    ),
]
