"""Claims of advantage estimators about limits and identities with a critic: λ, n, δ, importance weights."""

from __future__ import annotations

import math
from typing import Any, Final

from rlhf_lab.conformance.definitions.futures import Future
from rlhf_lab.conformance.inputs import with_fields
from rlhf_lab.conformance.properties.advantage_cases import BEHAVIOUR, claim, discounted_return, each, gamma_of
from rlhf_lab.conformance.property import Property, expect_equal
from rlhf_lab.conformance.subject import Subject

__all__ = ["CRITIC_CLAIMS"]


def _lambda_one(subject: Subject, case: Any) -> None:
    due = each(case, lambda future: discounted_return(future, gamma_of(subject)) - future.values[0])
    expect_equal(subject.of(lam=1.0)(case), {"A": due}, case.valid, note="= G - V, at λ = 1")


def _lambda_zero(subject: Subject, case: Any) -> None:
    due = each(case, lambda future: future.errors(gamma_of(subject))[0])
    expect_equal(subject.of(lam=0.0)(case), {"A": due}, case.valid, note="= δ, at λ = 0")


def _lambda_mixes(subject: Subject, case: Any) -> None:
    gamma, lam = gamma_of(subject), float(subject.parameter("lam", 1.0))

    def mixture(future: Future) -> float:
        left = len(future.rewards)
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [lam ** (left - 1)]
        return math.fsum(weight * future.n_step(gamma, n) for n, weight in enumerate(weights, 1))

    expect_equal(subject(case), {"A": each(case, mixture)}, case.valid, note="the λ-weighted mean of n-step advantages")


def _one_step_error(subject: Subject, case: Any) -> None:
    due = each(case, lambda future: future.errors(gamma_of(subject))[0])
    expect_equal(subject(case), {"A": due}, case.valid, note="= r + γ V(s') - V(s)")


def _n_one(subject: Subject, case: Any) -> None:
    due = each(case, lambda future: future.errors(gamma_of(subject))[0])
    expect_equal(subject.of(n=1)(case), {"A": due}, case.valid, note="= δ, at n = 1")


def _n_large(subject: Subject, case: Any) -> None:
    due = each(case, lambda future: discounted_return(future, gamma_of(subject)) - future.values[0])
    expect_equal(subject.of(n=64)(case), {"A": due}, case.valid, note="= G - V, at n = 64")


def _telescopes(subject: Subject, case: Any) -> None:
    gamma, n = gamma_of(subject), int(subject.parameter("n", 1))

    def total(future: Future) -> float:
        return math.fsum(gamma**i * error for i, error in enumerate(future.errors(gamma)[:n]))

    expect_equal(subject(case), {"A": each(case, total)}, case.valid, note="= Σ_{i<n} γⁱ δ")


def _on_policy(subject: Subject, case: Any) -> None:
    lam, gamma = float(subject.parameter("lam", 1.0)), gamma_of(subject)
    judge = subject.of(rho_bar=1.0, c_bar=1.0)

    def lambda_return(future: Future) -> float:
        errors = future.errors(gamma)
        return future.values[0] + math.fsum((gamma * lam) ** i * error for i, error in enumerate(errors))

    same = with_fields(case, {"target_log_probs": case.log_probs})
    note = "the λ-return, on policy"
    expect_equal(judge(same), {"returns": each(case, lambda_return)}, case.valid, note=note)
    whole = each(case, lambda future: discounted_return(future, gamma) - future.values[0])
    expect_equal(judge.of(lam=1.0)(same), {"A": whole}, case.valid, note="= G - V, on policy at λ = 1")


def _no_trace(subject: Subject, case: Any) -> None:
    gamma, rho_bar = gamma_of(subject), float(subject.parameter("rho_bar", 1.0))
    ratio = (case.target_log_probs - case.log_probs).exp().clamp(max=rho_bar)
    error = each(case, lambda future: future.errors(gamma)[0])
    note = "= V + ρ δ, at c_bar = 0"
    expect_equal(subject.of(c_bar=0.0)(case), {"returns": case.values + ratio * error}, case.valid, note=note)


def _capped(subject: Subject, case: Any) -> None:
    caps = [float(subject.parameter(name, 1.0)) for name in ("rho_bar", "c_bar")]
    if not all(math.isfinite(cap) for cap in caps):
        return
    above = case.target_log_probs - case.log_probs >= math.log(max(*caps, 1e-9))
    raised = with_fields(case, {"target_log_probs": case.target_log_probs + above})
    expect_equal(subject(raised), subject(case), case.valid, note="as before ratios above both caps grew")


_GAE: Final = "Schulman et al. 2016, eq. 16 to 18"
_VTRACE: Final = "Espeholt et al. 2018, remark 1 and eq. 1"
_SB: Final = "Sutton and Barto 2018"

CRITIC_CLAIMS: Final[list[Property]] = [
    claim(
        "lambda-one-is-monte-carlo",
        "lam",
        "at λ = 1, A = G - V, with γᴺ V(s_N) in G where the episode was cut",
        _GAE,
        _lambda_one,
    ),
    claim("lambda-zero-is-td", "lam", "at λ = 0, A = δ", _GAE, _lambda_zero),
    claim("lambda-mixes-n-step", "lam", "A = (1-λ) Σ_{n<N} λ^{n-1} A(n) + λ^{N-1} A(N)", _GAE, _lambda_mixes),
    claim("one-step-error", "next_values", "A = r + γ V(s') - V(s)", f"{_SB}, eq. 6.5", _one_step_error),
    claim("n-one-is-td", "n", "at n = 1, A = δ", f"{_SB}, eq. 7.1", _n_one),
    claim("n-large-is-monte-carlo", "n", "for n beyond the episode, A = G - V", f"{_SB}, section 7.1", _n_large),
    claim("n-step-telescopes", "n", "A = Σ_{i<n} γⁱ δ[t+i]", "Schulman et al. 2016, eq. 11 to 14", _telescopes),
    claim(
        "on-policy-is-the-lambda-return",
        "rho_bar",
        "with π = μ and bars of 1, returns = λ-return, and A = G - V at λ = 1",
        _VTRACE,
        _on_policy,
        BEHAVIOUR,
    ),
    claim("no-trace-is-one-step", "c_bar", "at c̄ = 0, returns = V + min(ρ̄, π/μ) δ", _VTRACE, _no_trace, BEHAVIOUR),
    claim("ratios-are-capped", "rho_bar", "ratios above both caps count as the caps", _VTRACE, _capped, BEHAVIOUR),
]
