"""What a policy objective may claim in expectation, by exact sums over all actions, and of its penalties.

J = Σ π(a) A(a) is the expected advantage of a decision, and θ are the logits of π.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.properties.objective_claims import claim
from rlhf_lab.conformance.properties.objective_clipping import unclipped
from rlhf_lab.conformance.properties.objective_state import Affine, reduced_metrics
from rlhf_lab.conformance.properties.policy_cases import (
    Choices,
    choices,
    decisions,
    expected_slope,
    kinks,
    log_ratio,
    with_advantages,
)
from rlhf_lab.conformance.property import Property, Violation, expect_equal, show_number
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import PolicyBatch

__all__ = ["CLAIMS"]


def _policy(case: Choices) -> Tensor:
    return case.logits.log_softmax(-1)


def _sampler(case: Choices) -> Tensor:
    return case.old_logits.log_softmax(-1)


def _loss_slope(case: Choices) -> Tensor:
    """Return −dJ/dθ = −π (A − J)."""
    policy = _policy(case).exp()
    return -policy * (case.advantages - (policy * case.advantages).sum(-1, keepdim=True))


def _without_advantages(case: Choices) -> Choices:
    return with_fields(case, {"advantages": torch.zeros_like(case.advantages)})


def _gradients(subject: Subject, case: Choices, sampler: Tensor) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the expected gradient under a sampler, and the one that is due."""
    batch = decisions(case, sampler=sampler)
    return {"E[dL/dθ]": expected_slope(subject(batch), batch, sampler)}, {"E[dL/dθ]": _loss_slope(case)}


def _unbiased_on_policy(subject: Subject, case: Choices) -> None:
    found, due = _gradients(subject, case, _policy(case))
    try:
        expect_equal(found, due, note="= −dJ/dθ")
    except Violation:
        if not bool(kinks(subject, decisions(case, sampler=_policy(case))).any()):
            raise


def _unbiased_off_policy(subject: Subject, case: Choices) -> None:
    expect_equal(*_gradients(subject, case, _sampler(case)), note="= −dJ/dθ, though another policy samples")


def _unclipped_off_policy(subject: Subject, case: Choices) -> None:
    expect_equal(*_gradients(unclipped(subject), case, _sampler(case)), note="= −dJ/dθ without a bound on the ratio")


def _unbiased_surrogate(subject: Subject, case: Choices) -> None:
    sampler = _sampler(case)
    expected = (sampler.exp() * subject(decisions(case, sampler=sampler))["L"]).sum(-1)
    expect_equal({"E[L]": expected}, {"E[L]": -(_policy(case).exp() * case.advantages).sum(-1)}, note="= −J")


def _bias(off_policy: bool) -> Callable[[Subject], str]:
    """Return what tells the expected gradient of one decision beside the true one."""

    def measure(subject: Subject) -> str:
        logits = torch.tensor([[0.0, 1.0, -1.0]], dtype=torch.float64)
        case = Choices(logits, torch.zeros_like(logits), torch.tensor([[1.0, 0.5, -0.5]], dtype=torch.float64))
        found, due = _gradients(subject, case, _sampler(case) if off_policy else _policy(case))
        shown = [", ".join(show_number(float(x), 3) for x in each["E[dL/dθ]"][0]) for each in (found, due)]
        sampler = "a uniform sampler" if off_policy else "on-policy samples"
        return f"for logits 0, 1, -1, A = 1, 0.5, -0.5 and {sampler}: E[dL/dθ] = {shown[0]}, −dJ/dθ = {shown[1]}"

    return measure


def _old_penalty(subject: Subject, case: Choices) -> None:
    policy, old, coef = _policy(case), _sampler(case), subject.parameter("coef", 1.0)
    batch = decisions(_without_advantages(case), sampler=old)
    answer = subject(batch)
    due = {
        "E[L]": coef * (old.exp() * (old - policy)).sum(-1),
        "E[dL/dθ]": coef * (policy.exp() - old.exp()),
    }
    expected = {"E[L]": (old.exp() * answer["L"]).sum(-1), "E[dL/dθ]": expected_slope(answer, batch, old)}
    expect_equal(expected, due, note="of coef KL(π_old ‖ π), at A = 0")


def _reference_penalty(subject: Subject, case: Choices) -> None:
    policy, reference, beta = _policy(case), _sampler(case), subject.parameter("beta", 1.0)
    batch = decisions(_without_advantages(case), sampler=policy, reference=reference)
    expected = {"E[L]": (policy.exp() * subject(batch)["L"]).sum(-1)}
    due = {"E[L]": beta * (policy.exp() * (policy - reference)).sum(-1)}
    expect_equal(expected, due, note="= beta KL(π ‖ π_ref), at A = 0")


def _penalty_not_negative(subject: Subject, case: PolicyBatch) -> None:
    answer = subject(with_advantages(case, torch.zeros_like(case.advantages)))
    expect_equal(answer, {"L": answer["L"].clamp(min=0)}, case.valid, note="or more, at A = 0")


def _penalty_apart(subject: Subject, case: PolicyBatch) -> None:
    penalty = subject(with_advantages(case, torch.zeros_like(case.advantages)))
    due = -log_ratio(subject, case).exp() * case.advantages
    gained = {symbol: subject(case)[symbol] - penalty[symbol] for symbol in ("L", "dL/dlog_probs")}
    expect_equal(gained, dict.fromkeys(gained, due), case.valid, note="= −ρ A, beyond what A = 0 gets")


def _follows_controller(subject: Subject, case: PolicyBatch) -> None:
    controller = Affine()
    judge = subject.of(controller=controller)
    component = cast("PolicyObjective", judge.component)
    state = component.initial_state()
    probe = with_advantages(case, torch.zeros_like(case.advantages))
    for scale in (1.0, 0.25, 2.0**-4, 2.0**-7):
        far = log_ratio(judge, case) * scale
        seen = with_fields(case, {"log_probs": case.log_probs - log_ratio(judge, case) + far})
        after = component.next_state(state, reduced_metrics(judge, seen, state))
        coef = torch.tensor(judge.parameter("coef", 1.0), dtype=torch.float64)
        weight = controller(coef, (torch.expm1(far) - far).mean())
        unit = torch.expm1(log_ratio(judge, case)) - log_ratio(judge, case)
        note = f"= {show_number(float(weight))} (ρ − 1 − log ρ) at A = 0, after a divergence of "
        note += f"{show_number(float((torch.expm1(far) - far).mean()))} and with β ← 2 β + divergence as controller"
        expect_equal(judge(with_fields(probe, {"state": after})), {"L": weight * unit}, case.valid, note=note)


def _claim(id_: str, statement: str, reference: str, check: Any, **options: Any) -> Property:
    return claim(id_, statement, reference, check, **{"cases": choices(), **options})


CLAIMS: list[Property] = [
    _claim(
        "unbiased-on-policy",
        "for actions drawn from π, the expected gradient is the policy gradient: E_π[dL/dθ] = −dJ/dθ",
        "Williams 1992, theorem 1; Sutton et al. 2000, theorem 1",
        _unbiased_on_policy,
        measure=_bias(off_policy=False),
    ),
    _claim(
        "unbiased-off-policy",
        "for actions drawn from π_old (π_behaviour), E[dL/dθ] = −dJ/dθ still",
        "Kakade & Langford 2002; Schulman et al. 2015, eq. 14",
        _unbiased_off_policy,
        measure=_bias(off_policy=True),
    ),
    _claim(
        "unclipped-is-unbiased-off-policy",
        "without a bound on the ratio, E[dL/dθ] = −dJ/dθ for actions drawn from π_old (π_behaviour)",
        "Schulman et al. 2015, eq. 14",
        _unclipped_off_policy,
    ),
    _claim(
        "unbiased-surrogate",
        "for actions drawn from π_old, E[L] = −J",
        "Schulman et al. 2015, eq. 14",
        _unbiased_surrogate,
    ),
    _claim(
        "penalty-is-kl-from-old",
        "at A = 0 and for actions drawn from π_old, E[L] = coef KL(π_old ‖ π), and the gradient is that of it",
        "Schulman et al. 2017, eq. 8",
        _old_penalty,
    ),
    _claim(
        "penalty-is-kl-to-reference",
        "at A = 0 and for actions drawn from π, E[L] = beta KL(π ‖ π_ref)",
        "Shao et al. 2024, eq. 4",
        _reference_penalty,
    ),
    claim(
        "penalty-never-negative",
        "at A = 0, L ≥ 0 for every single action",
        "Schulman 2020, Approximating KL divergence",
        _penalty_not_negative,
    ),
    claim(
        "penalty-apart-from-advantages",
        "L(A) − L(0) = −ρ A, and so of the gradient: the penalty does not depend on A",
        "Schulman et al. 2017, eq. 8",
        _penalty_apart,
    ),
    claim(
        "penalty-follows-controller",
        "next_state sets the weight of the penalty to what the controller makes of it and of the mean of ρ − 1 − log ρ",
        "Schulman et al. 2017, section 4",
        _follows_controller,
        share=0.1,
    ),
]
