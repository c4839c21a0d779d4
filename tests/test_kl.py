"""KL estimators: exact expectations of value and gradient by enumeration, so that what holds is what is claimed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_lab_objectives import K1, K2, K3, AbsoluteKL, FullKL

Estimator = Callable[..., Tensor]

# A categorical with six actions, away from its reference; the sampler is a third distribution.
LOGITS = torch.tensor([0.9, -0.4, 0.2, -1.5, 0.0, 1.3], dtype=torch.float64)
REF = torch.tensor([-0.3, 0.8, 0.1, -0.2, 0.6, 0.4], dtype=torch.float64).log_softmax(-1)
OLD = torch.tensor([0.2, 0.1, -0.9, -0.5, 1.0, 0.7], dtype=torch.float64).log_softmax(-1)

SAMPLED = [K1(), AbsoluteKL(), K2(), K3()]
ALL = [*SAMPLED, FullKL()]


def name_of(part: Any) -> str | None:
    return getattr(part, "name", None) or getattr(part, "__name__", None)


def expectation(estimator: Estimator, log_probs: Tensor, sampler: Tensor, **off_policy: Tensor) -> Tensor:
    """The exact mean of the estimate over actions drawn from ``sampler``; ``full`` is its own mean."""
    estimate = estimator(log_probs, REF, **off_policy)
    return (sampler.exp() * estimate).sum() if estimate.ndim else estimate


def gradient_of(function: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient in the logits of a function of log-probabilities."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(logits.log_softmax(-1)), logits)
    return gradient


def reverse_kl(log_probs: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - REF)).sum()


def forward_kl(log_probs: Tensor) -> Tensor:
    return (REF.exp() * (REF - log_probs)).sum()


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(torch.allclose(found, expected, atol=1e-10, rtol=0))


def unbiased_value(estimator: Estimator) -> bool:
    log_probs = LOGITS.log_softmax(-1)
    exact = reverse_kl(log_probs)
    on = expectation(estimator, log_probs, log_probs)
    off = expectation(estimator, log_probs, OLD, old_log_probs=OLD)
    return close(on, exact) and close(off, exact)


def loss_gradient(estimator: Estimator) -> bool:
    sampler = LOGITS.log_softmax(-1)
    return close(gradient_of(lambda lp: expectation(estimator, lp, sampler)), gradient_of(reverse_kl))


def off_policy_loss_gradient(estimator: Estimator) -> bool:
    found = gradient_of(lambda lp: expectation(estimator, lp, OLD, old_log_probs=OLD))
    return close(found, gradient_of(reverse_kl))


LAWS = {
    "unbiased-value": unbiased_value,
    "loss-gradient": loss_gradient,
    "off-policy-loss-gradient": off_policy_loss_gradient,
}


@pytest.mark.parametrize("claim", LAWS)
@pytest.mark.parametrize("estimator", ALL, ids=name_of)
def test_an_estimator_claims_exactly_what_holds(estimator: Any, claim: str) -> None:
    assert LAWS[claim](estimator) == (claim in estimator.claims)


def swapped_arguments(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K01
    return weighed((log_probs - ref).exp() - 1 - (log_probs - ref), log_probs, old_log_probs)


def exponent_of_a_ratio(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K12
    ratio = (ref - log_probs).exp()
    return weighed(ratio.exp() - 1 - ratio, log_probs, old_log_probs)


def k1_without_weight(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K02
    return log_probs - ref


def k2_without_weight(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K03b
    return 0.5 * (log_probs - ref) ** 2


def k2_with_live_weight(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
    return weighed(0.5 * (log_probs - ref) ** 2, log_probs, old_log_probs)


def k3_without_weight(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K03
    return (ref - log_probs).exp() - 1 - (ref - log_probs)


def k3_with_detached_weight(log_probs: Tensor, ref: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:  # K04
    return weighed(k3_without_weight(log_probs, ref), log_probs.detach(), old_log_probs)


def weighed(estimate: Tensor, log_probs: Tensor, old: Tensor | None) -> Tensor:
    return estimate if old is None else (log_probs - old).exp() * estimate


@pytest.mark.parametrize(
    ("claim", "mutant"),
    [
        ("unbiased-value", swapped_arguments),
        ("loss-gradient", swapped_arguments),
        ("unbiased-value", exponent_of_a_ratio),
        ("unbiased-value", k1_without_weight),
        ("loss-gradient", k1_without_weight),
        ("off-policy-loss-gradient", k1_without_weight),
        ("off-policy-loss-gradient", k2_without_weight),
        ("off-policy-loss-gradient", k2_with_live_weight),
        ("loss-gradient", k3_without_weight),
        ("off-policy-loss-gradient", k3_without_weight),
        ("off-policy-loss-gradient", k3_with_detached_weight),
    ],
    ids=name_of,
)
def test_laws_reject_mutants(claim: str, mutant: Estimator) -> None:
    assert not LAWS[claim](mutant)


def test_k1_as_an_on_policy_loss_does_nothing() -> None:
    sampler = LOGITS.log_softmax(-1)
    gradient = gradient_of(lambda lp: expectation(K1(), lp, sampler))
    assert gradient.abs().max() < 1e-15


def test_k3_as_an_on_policy_loss_descends_the_other_divergence() -> None:
    sampler = LOGITS.log_softmax(-1)
    gradient = gradient_of(lambda lp: expectation(K3(), lp, sampler))
    assert close(gradient, gradient_of(forward_kl))


@pytest.mark.parametrize("estimator", [K1(), K2(), K3()], ids=name_of)
def test_own_log_probs_as_old_ones_make_the_on_policy_gradient_exact(estimator: Estimator) -> None:
    sampler = LOGITS.log_softmax(-1)
    found = gradient_of(lambda lp: expectation(estimator, lp, sampler, old_log_probs=sampler))
    assert close(found, gradient_of(reverse_kl))


def test_k2_has_the_gradient_of_k1_in_the_reward_sample_by_sample() -> None:
    # k1 as a detached reward r = -k1 under REINFORCE: -r grad log pi = k1 grad log pi.
    log_probs = LOGITS.log_softmax(-1).requires_grad_()
    (gradient,) = torch.autograd.grad(K2()(log_probs, REF).sum(), log_probs)
    torch.testing.assert_close(gradient, K1()(log_probs, REF).detach())


def test_values_by_hand() -> None:
    # pi / ref = 2: log 2, log 2, log^2 2 / 2, 1/2 - 1 + log 2.
    # pi / ref = 1/2: -log 2, log 2, log^2 2 / 2, 2 - 1 - log 2.
    ref = torch.tensor([0.25, 0.5], dtype=torch.float64).log()
    log_probs = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    two = math.log(2)
    expected = [[two, -two], [two, two], [two**2 / 2, two**2 / 2], [two - 0.5, 1 - two]]
    for estimator, values in zip(SAMPLED, expected, strict=True):
        torch.testing.assert_close(estimator(log_probs, ref), torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("estimator", SAMPLED, ids=name_of)
def test_samples_of_an_older_policy_are_weighed_by_the_ratio(estimator: Estimator) -> None:
    log_probs = LOGITS.log_softmax(-1)
    expected = (log_probs - OLD).exp() * estimator(log_probs, REF)
    torch.testing.assert_close(estimator(log_probs, REF, old_log_probs=OLD), expected)


@pytest.mark.parametrize("mean", [0.1, 1.0])
def test_bias_and_spread_between_two_gaussians(mean: float) -> None:
    # Schulman 2020: q = N(0, 1), p = N(m, 1), KL = m^2 / 2. Relative to KL: k1 has spread 2 / m; k2 bias m^2 / 4 and
    # spread sqrt(2 + m^2); k3 spread 2 sqrt(e^(m^2) - 1 - m^2) / m^2. The mean over q is a quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    x, weight = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    q, p, kl = -(x**2) / 2, -((x - mean) ** 2) / 2, mean**2 / 2
    expected = {
        "k1": (0, 2 / mean),
        "k2": (mean**2 / 4, math.sqrt(2 + mean**2)),
        "k3": (0, 2 * math.sqrt(math.exp(mean**2) - 1 - mean**2) / mean**2),
    }
    for estimator in (K1(), K2(), K3()):
        samples = estimator(q, p)
        average = float((weight * samples).sum())
        spread = math.sqrt(float((weight * (samples - average) ** 2).sum()))
        assert (average / kl - 1, spread / kl) == pytest.approx(expected[estimator.name], abs=1e-9)


@pytest.mark.parametrize("estimator", [AbsoluteKL(), K2(), K3(), FullKL()], ids=name_of)
def test_never_negative_and_zero_at_the_reference(estimator: Estimator) -> None:
    log_probs = LOGITS.log_softmax(-1)
    assert bool((estimator(log_probs, REF) > 0).all())
    assert bool((estimator(REF, REF) == 0).all())


def test_k3_does_not_cancel_near_the_reference_in_float32() -> None:
    # d = 1e-3: k3 = d^2/2 + d^3/6 + ... The plain formula in float32 is off by 1e-7 of 5e-7.
    shift = torch.tensor(1e-3)
    exact = math.expm1(float(shift)) - float(shift)
    assert float(K3()(torch.zeros(()), shift)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("estimator", ALL, ids=name_of)
def test_only_log_probs_carries_gradient(estimator: Estimator) -> None:
    log_probs, ref, old = (x.clone().requires_grad_() for x in (LOGITS.log_softmax(-1), REF, OLD))
    found = torch.autograd.grad(
        estimator(log_probs, ref, old_log_probs=old).sum(), [log_probs, ref, old], allow_unused=True
    )
    assert found[0] is not None and bool((found[0] != 0).all())
    assert all(g is None or bool((g == 0).all()) for g in found[1:])


def test_full_by_hand() -> None:
    # pi = (3/4, 1/4), ref = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2.
    log_probs = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
    ref = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    expected = 0.75 * math.log(1.5) - 0.25 * math.log(2)
    torch.testing.assert_close(FullKL()(log_probs, ref), torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("ref_of_impossible", [-math.inf, -1.0, math.nan])
def test_a_zero_probability_action_contributes_nothing(ref_of_impossible: float) -> None:
    # Two legal actions and a masked one: value and gradient are those of the two alone.
    logits = torch.tensor([0.3, -0.4, -math.inf], dtype=torch.float64, requires_grad=True)
    pair = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    masked_ref = torch.cat([ref, torch.tensor([ref_of_impossible], dtype=torch.float64)])
    masked, plain = FullKL()(logits.log_softmax(-1), masked_ref), FullKL()(pair.log_softmax(-1), ref)
    torch.testing.assert_close(masked, plain)
    (found,), (expected,) = torch.autograd.grad(masked, logits), torch.autograd.grad(plain, pair)
    torch.testing.assert_close(found, torch.cat([expected, torch.zeros(1, dtype=torch.float64)]))


def test_a_reference_that_forbids_a_possible_action_is_infinitely_far() -> None:
    log_probs = torch.tensor([0.5, 0.5]).log()
    assert FullKL()(log_probs, torch.tensor([1.0, 0.0]).log()).item() == math.inf
    assert K3()(log_probs, torch.tensor([1.0, 0.0]).log())[1].item() == math.inf


@pytest.mark.parametrize("estimator", ALL, ids=name_of)
def test_leading_axes_do_not_matter(estimator: Any) -> None:
    torch.manual_seed(0)
    log_probs, ref, old = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64).log_softmax(-1)
    whole = estimator(log_probs, ref, old_log_probs=old)
    assert whole.shape == ((2, 4, 5) if estimator.distributions else (2, 4, 5, 6))
    for run in range(2):
        single = estimator(log_probs[run, 1], ref[run, 1], old_log_probs=old[run, 1])
        torch.testing.assert_close(whole[run, 1], single, atol=0, rtol=0)
