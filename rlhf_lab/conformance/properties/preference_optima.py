"""What a preference loss may claim of where it is least: for one label, and over labels drawn at a known rate.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, h = a − b, and p is the probability that
the one is preferred.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.response_answers import (
    at_ratios,
    at_the_reference,
    claim,
    pull,
    rate,
    ratios,
    swapped,
)
from rlhf_lab.conformance.property import Property, Violation, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]

_CHANCES: Final = (0.75, 0.9, 0.5, 0.25)


def _at_margin(case: Rankings, margin: float | Tensor) -> Rankings:
    """Return the batch with h = ``margin`` at the same b."""
    b = ratios(case)[:, 1]
    return at_ratios(case, torch.stack([b + margin, b], dim=-1))


def _hard(subject: Subject) -> Subject:
    """Return the component as it is for labels that are sure."""
    return subject.of(soft_labels=False) if subject.has("soft_labels") else subject


def _flat(subject: Subject, case: Rankings, note: str) -> None:
    zero = torch.zeros_like(case.log_probs)
    expect_equal(subject(case), {"dL/dlog_probs": zero}, note=note, tolerance=1e-8)


def _half_over_beta(subject: Subject, case: Rankings) -> None:
    target = 0.5 / subject.parameter("beta", 0.1)
    _flat(_hard(subject), _at_margin(case, target), f"at h = 1/(2 β) = {target:g}")


def _smoothed(subject: Subject, case: Rankings) -> None:
    e, beta = rate(subject), subject.parameter("beta", 0.1)
    if e > 0:
        target = math.log((1 - e) / e) / beta
        _flat(subject, _at_margin(case, target), f"at h = log((1 − e)/e)/β = {target:g}")


def _each(subject: Subject, case: Rankings) -> None:
    target = 0.5 / subject.parameter("beta", 0.1)
    here = at_ratios(case, torch.tensor([target, -target], dtype=torch.float64).expand_as(case.log_probs))
    _flat(_hard(subject), here, f"at a = −b = 1/(2 β) = {target:g}")


def _given_reward(subject: Subject, case: Rankings) -> None:
    if case.margins is None:
        raise Violation("margins not read", "a component that reads margins")
    eta, beta = subject.parameter("eta", 1.0), subject.parameter("beta", 0.1)
    here = _at_margin(case, eta * case.margins / beta)
    _flat(subject, here, "at β h = η Δr")
    expect_equal(subject(here), {"L": torch.zeros_like(case.margins)}, note="at β h = η Δr")


def _fair_label(subject: Subject, case: Rankings) -> None:
    if case.margins is None:
        raise Violation("margins not read", "a component that reads margins")
    level = map_fields(case, lambda name, _, x: torch.zeros_like(x) if name == "margins" else x)
    a, beta = ratios(case), subject.parameter("beta", 0.1)
    q = torch.sigmoid(beta * (a[:, 0] - a[:, 1]))
    expect_equal(subject(level), {"L": -0.5 * torch.log(4 * q * (1 - q))}, note="= −½ log 4 q (1 − q) for Δr = 0")


def _fair_policy(subject: Subject, case: Rankings) -> None:
    e = rate(subject)
    due = torch.full_like(case.log_probs[:, 0], -0.5 * math.log(4 * e * (1 - e)))
    expect_equal(subject(at_the_reference(case)), {"L": due}, note="= −½ log 4 e (1 − e) at π = π_ref")


def _two_thirds(subject: Subject, case: Rankings) -> None:
    a = torch.full_like(case.log_probs[:, 0], math.log(2) / subject.parameter("beta", 0.1))
    slope = pull(subject, at_ratios(case, torch.stack([a, ratios(case)[:, 1]], dim=-1)))[:, :1]
    expect_equal({"g[chosen]": slope}, {"g[chosen]": torch.zeros_like(slope)}, note="at σ(β a) = 2/3")


def _expected(subject: Subject, case: Rankings, chance: float) -> Tensor:
    """Return the gradient in expectation over which response is preferred."""
    one, other = pull(subject, case), pull(subject, swapped(case)).flip(-1)
    return chance * one + (1 - chance) * other


def _population(subject: Subject, case: Rankings, *, linear: bool) -> None:
    beta = subject.parameter("beta", 0.1)
    for chance in _CHANCES:
        target = ((chance - 0.5) if linear else math.log(chance / (1 - chance))) / beta
        mean = {"E[g]": _expected(_hard(subject), _at_margin(case, target), chance)}
        note = f"at h = {target:g}, where the first response is preferred with probability {chance:g}"
        expect_equal(mean, {"E[g]": torch.zeros_like(mean["E[g]"])}, note=note, tolerance=1e-8)


def _logit(subject: Subject, case: Rankings) -> None:
    _population(subject, case, linear=False)


def _linear(subject: Subject, case: Rankings) -> None:
    _population(subject, case, linear=True)


def _soft(subject: Subject, case: Rankings) -> None:
    soft = subject.of(soft_labels=True)
    for chance in _CHANCES:
        level = torch.full_like(case.log_probs[:, 0], chance)
        told = map_fields(case, lambda name, _, x, level=level: level if name == "preference_prob" else x)  # type: ignore[misc]
        due = _expected(_hard(subject), case, chance)
        note = f"= the mean over labels drawn with p = {chance:g}"
        expect_equal(soft(told), {"dL/dlog_probs": due}, note=note)


CLAIMS: list[Property] = [
    claim(
        "optimum-is-half-over-beta",
        "for a sure label g = 0 at h = 1/(2 β)",
        "Azar et al. 2023, eq. 17",
        _half_over_beta,
    ),
    claim(
        "optimum-is-the-smoothed-logit",
        "g = 0 at β h = log((1 − e)/e), e = label_smoothing",
        "Mitchell 2023, A note on DPO with noisy preferences",
        _smoothed,
        applies=about("label_smoothing"),
    ),
    claim(
        "optimum-of-each-response",
        "for a sure label g = 0 at a = 1/(2 β), b = −1/(2 β)",
        "Wu et al. 2024 (SPPO), eq. 4.7",
        _each,
    ),
    claim(
        "optimum-is-the-given-reward",
        "L = 0 and g = 0 at β h = η Δr",
        "Nvidia 2024 (Nemotron-4), section 3.3.2",
        _given_reward,
        applies=about("margins"),
    ),
    claim(
        "fair-coin-for-equal-rewards",
        "for Δr = 0, L is the divergence of a fair coin from q = σ(β h)",
        "Nvidia 2024 (Nemotron-4), section 3.3.2",
        _fair_label,
        applies=about("margins"),
    ),
    claim(
        "fair-coin-at-the-reference",
        "at π = π_ref, L is the divergence of a fair coin from the smoothed label",
        "Ji et al. 2024, eq. 16",
        _fair_policy,
        applies=about("label_smoothing"),
    ),
    claim(
        "chosen-has-an-optimum",
        "g of the chosen response is 0 at σ(β a) = 2/3, whatever b",
        "Chen et al. 2024 (arXiv 2402.05369)",
        _two_thirds,
    ),
    claim(
        "population-optimum-is-the-logit",
        "over labels drawn with probability p the pulls cancel at β h = log(p/(1 − p)), as of Bradley and Terry",
        "Rafailov et al. 2023, eq. 6",
        _logit,
    ),
    claim(
        "population-optimum-is-linear",
        "over labels drawn with probability p the pulls cancel at h = (p − ½)/β",
        "Azar et al. 2023, section 5.2",
        _linear,
    ),
    claim(
        "soft-labels-are-expectations",
        "with soft_labels, g is the mean of the gradients of labels drawn with probability p",
        "Azar et al. 2023, section 5.2; Wu et al. 2024 (SPPO), eq. 4.6",
        _soft,
        applies=about("soft_labels"),
    ),
]
