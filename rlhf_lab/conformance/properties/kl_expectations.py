"""Claims of role kl about expectations, by enumerating the actions of small categorical distributions.

Requirements this file meets:
- cases are odds such as 2 : 1 : 1, so that a counterexample can be checked by hand, and any smaller one is a case too;
- gradients are with respect to the logits of π: E[∇KL] = Σ_x q(x) · dKL/dlog π(x) · ∇log π(x), where x is drawn from q;
- an estimator that does not claim an expectation is told its exact bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import LogProbs
from rlhf_lab.conformance.kl_cases import Odds, odds
from rlhf_lab.conformance.property import Check, Property, expect_equal, expect_true, show_number
from rlhf_lab.conformance.subject import Subject

__all__ = ["EXPECTATIONS"]

_TANG: Final = "Tang & Munos 2025"
_SCHULMAN: Final = 'Schulman 2020, "Approximating KL divergence"'


_EITHER, _ON_POLICY, _OFF_POLICY = odds(), odds(old=False), odds(old=True)
_EXAMPLE: Final = Odds(
    *(
        torch.tensor([x], dtype=torch.float64)
        for x in ((4.0, 2.0, 1.0, 1.0), (1.0, 1.0, 2.0, 4.0), (1.0, 1.0, 1.0, 1.0))
    )
)


def _expected(subject: Subject, case: Odds) -> tuple[float, Tensor]:
    """Return the expected estimate, and its expected gradient with respect to the logits of the policy."""
    logs = [None if x is None else (x / x.sum()).log() for x in (case.policy, case.reference, case.old)]
    policy, reference, old = logs
    assert policy is not None and reference is not None
    if getattr(subject.component, "distributions", False):
        answer = subject(LogProbs(policy[None], reference[None], None if old is None else old[None]))
        return float(answer["KL"]), answer["dKL/dlogits"][0, 0]
    answer = subject(LogProbs(policy, reference, old))
    sampled = torch.tensor(case.chances("policy" if old is None else "old"), dtype=torch.float64)
    slopes = sampled * answer["dKL/dlog_probs"][0]
    return float((sampled * answer["KL"][0]).sum()), slopes - policy[0].exp() * slopes.sum()


def _divergence(case: Odds) -> float:
    pairs = zip(case.chances("policy"), case.chances("reference"), strict=True)
    return math.fsum(p * math.log(p / r) for p, r in pairs)


def _gradient(case: Odds) -> Tensor:
    """Return ∇KL(π ‖ π_ref), per logit of π."""
    pairs = zip(case.chances("policy"), case.chances("reference"), strict=True)
    return torch.tensor([p * (math.log(p / r) - _divergence(case)) for p, r in pairs], dtype=torch.float64)


def _forward_gradient(case: Odds) -> Tensor:
    """Return ∇KL(π_ref ‖ π), per logit of π."""
    pairs = zip(case.chances("policy"), case.chances("reference"), strict=True)
    return torch.tensor([p - r for p, r in pairs], dtype=torch.float64)


def _unbiased_value(subject: Subject, case: Odds) -> None:
    got, due = _expected(subject, case)[0], _divergence(case)
    expect_true(
        abs(got - due) <= 1e-9 * max(1, due), f"E[KL] = {show_number(got)}", f"{show_number(due)}, the divergence"
    )


def _at_least_divergence(subject: Subject, case: Odds) -> None:
    got, due = _expected(subject, case)[0], _divergence(case)
    expect_true(got >= due - 1e-9, f"E[KL] = {show_number(got)}", f"at least {show_number(due)}, the divergence")


def _gradient_is(due: Callable[[Odds], Tensor], name: str) -> Check:
    def check(subject: Subject, case: Odds) -> None:
        expect_equal({"E[dKL/dlogits]": _expected(subject, case)[1]}, {"E[dKL/dlogits]": due(case)}, note=f"of {name}")

    return check


def _tell_value(subject: Subject) -> str:
    exact = _divergence(_EXAMPLE)
    on, off = (_expected(subject, case)[0] - exact for case in (_without_old(_EXAMPLE), _EXAMPLE))
    told = f"E[KL] − KL = {show_number(on)} of {show_number(exact)}"
    more = "" if abs(on - off) < 1e-9 else f", {show_number(off)} over samples of π_old = {_shown('old')}"
    return f"{told}{more} ({_policies()})"


def _tell_gradient(case: Odds) -> Callable[[Subject], str]:
    def tell(subject: Subject) -> str:
        got, due = _expected(subject, case)[1], _gradient(case)
        sampler = "" if case.old is None else f", π_old = {_shown('old')}"
        return f"{_compared(got, due, _forward_gradient(case))} ({_policies()}{sampler})"

    return tell


def _compared(got: Tensor, due: Tensor, forward: Tensor) -> str:
    size = float(got.norm())
    if size < 1e-9:
        return "the expected gradient is 0: no regularisation at all"
    error, cosine = float((got - due).norm() / due.norm()), float(got @ due / (got.norm() * due.norm()))
    told = f"relative error {show_number(error, 2)}, cosine {show_number(cosine, 3)} with ∇KL(π ‖ π_ref)"
    return f"{told}; reads as ∇KL(π_ref ‖ π)" if torch.allclose(got, forward, atol=1e-9) else told


def _without_old(case: Odds) -> Odds:
    return Odds(case.policy, case.reference)


def _policies() -> str:
    return f"π = {_shown('policy')}, π_ref = {_shown('reference')}"


def _shown(name: str) -> str:
    return f"({', '.join(str(Fraction(chance)) for chance in _EXAMPLE.chances(name))})"


EXPECTATIONS: list[Property] = [
    Property(
        "unbiased-value",
        "kl",
        "E[KL] = KL(π ‖ π_ref) over samples of π, and over samples of π_old where `old_log_probs` is given",
        _SCHULMAN,
        True,
        _unbiased_value,
        cases=_EITHER,
        share=0.5,
        measure=_tell_value,
    ),
    Property(
        "loss-gradient",
        "kl",
        "as a loss over samples of π, without `old_log_probs`: E[∇KL] = ∇KL(π ‖ π_ref)",
        _TANG,
        True,
        _gradient_is(_gradient, "KL(π ‖ π_ref)"),
        cases=_ON_POLICY,
        share=0.5,
        measure=_tell_gradient(_without_old(_EXAMPLE)),
    ),
    Property(
        "off-policy-loss-gradient",
        "kl",
        "as a loss over samples of π_old, with `old_log_probs`: E[∇KL] = ∇KL(π ‖ π_ref)",
        f"{_TANG}; DeepSeek-AI 2025 (V3.2), section 3.1",
        True,
        _gradient_is(_gradient, "KL(π ‖ π_ref)"),
        cases=_OFF_POLICY,
        share=0.5,
        measure=_tell_gradient(_EXAMPLE),
    ),
    Property(
        "no-loss-gradient",
        "kl",
        "as a loss over samples of π, without `old_log_probs`: E[∇KL] = 0, so that nothing is regularised",
        _TANG,
        True,
        _gradient_is(lambda case: torch.zeros_like(case.policy[0]), "nothing: it is 0 in expectation"),
        cases=_ON_POLICY,
        share=0.5,
    ),
    Property(
        "forward-loss-gradient",
        "kl",
        "as a loss over samples of π, without `old_log_probs`: E[∇KL] = ∇KL(π_ref ‖ π), the other divergence",
        _TANG,
        True,
        _gradient_is(_forward_gradient, "KL(π_ref ‖ π)"),
        cases=_ON_POLICY,
        share=0.5,
    ),
    Property(
        "value-at-least-the-divergence",
        "kl",
        "E[KL] ≥ KL(π ‖ π_ref), as |log(π/π_ref)| ≥ log(π/π_ref)",
        "Jensen's inequality",
        True,
        _at_least_divergence,
        cases=_EITHER,
        share=0.5,
    ),
]
