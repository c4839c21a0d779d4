"""What losses without a reference, and losses that imitate the chosen response, may claim of themselves.

Throughout h is the difference of log(π/π_ref) of the chosen and of the rejected response, |y| a length, and p the
geometric mean of the probabilities of a response's tokens.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch.nn.functional import logsigmoid

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.preference_limits import beta_of, first, is_dpo, of_equal_length
from rlhf_lab.conformance.properties.response_answers import claim, dpo, lengths, slopes, with_policy
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]


def _without_imitation(subject: Subject, case: Rankings) -> None:
    weight = next((name for name in ("alpha", "eta") if subject.has(name)), "alpha")
    is_dpo(subject.of(**{weight: 0.0}), case, f"for {weight} = 0")


def _imitates_per_token(subject: Subject, case: Rankings) -> None:
    alpha = subject.parameter("alpha", 1.0)
    part = {"L − L'": subject(case)["L"] - subject.of(alpha=0.0)(case)["L"]}
    due = -alpha * case.log_probs[:, 0] / lengths(case)[:, 0]
    expect_equal(part, {"L − L'": due}, note="= −alpha log π of the chosen per token, with L' at alpha = 0")


def _imitates_in_units(subject: Subject, case: Rankings) -> None:
    eta = subject.parameter("eta", 0.005)
    part = {"L − L'": subject(case)["L"] - subject.of(eta=0.0)(case)["L"]}
    due = -eta * beta_of(subject) * case.log_probs[:, 0]
    expect_equal(part, {"L − L'": due}, note="= −eta β log π of the chosen, with L' at eta = 0")


def _uniform(subject: Subject, case: Rankings) -> None:
    """Compare with dpo whose reference gives both responses the same probability."""
    due = dpo(case.log_probs[:, 0] - case.log_probs[:, 1], beta_of(subject))
    expect_equal(subject.of(lam=0.0)(case), due, note="by dpo under a uniform reference, for lam = 0")


def _imitates(subject: Subject, case: Rankings) -> None:
    """Tell the part of the loss that its weight scales."""
    lam = subject.parameter("lam", 1.0)
    part = {"L − L'": subject(case)["L"] - subject.of(lam=0.0)(case)["L"]}
    expect_equal(part, {"L − L'": -lam * case.log_probs[:, 0]}, note="= −lam log π of the chosen, with L' at lam = 0")


def _single_tokens(subject: Subject, case: Rankings) -> None:
    one = torch.ones_like(lengths(case))
    here = map_fields(case, lambda name, _, x: one if name == "lengths" else x)
    due = dpo(case.log_probs[:, 0] - case.log_probs[:, 1], beta_of(subject))
    note = "by dpo under a uniform reference, for responses of one token and gamma = 0"
    expect_equal(subject.of(gamma=0.0)(here), due, note=note)


def _target_margin(subject: Subject, case: Rankings) -> None:
    """Give the rejected response the margin as a start."""
    gamma = subject.parameter("gamma", 1.0)
    start = -first(torch.ones_like(case.log_probs[:, 0])) * gamma / beta_of(subject) * lengths(case)
    due = slopes(subject.of(gamma=0.0), with_policy(case, case.log_probs + start))
    expect_equal(subject(case), due, note="as for gamma = 0 and log π(y_w)/|y_w| less by gamma/β")


def _small_odds(subject: Subject, case: Rankings) -> None:
    """Make both responses improbable: then odds are probabilities."""
    lam, count = subject.parameter("lam", 0.1), lengths(case)
    here = with_policy(case, case.log_probs - 40 * count)
    means = here.log_probs / count
    due = -means[:, 0] - lam * logsigmoid(means[:, 0] - means[:, 1])
    expect_equal(subject(here), {"L": due}, note="= −log p_w − lam log σ(log p_w/p_l), for p → 0")


def _complements(subject: Subject, case: Rankings) -> None:
    """Let the probabilities per token be p and 1 − p, whose log-odds are opposite."""
    lam, count = subject.parameter("lam", 0.1), lengths(case)
    p = torch.tensor([0.8, 0.3, 0.5, 0.99], dtype=torch.float64).repeat(len(count))[: len(count)]
    here = with_policy(case, torch.stack([p.log(), (1 - p).log()], dim=-1) * count)
    due = -p.log() + lam * torch.log((p**2 + (1 - p) ** 2) / p**2)
    expect_equal(
        subject(here), {"L": due}, note=f"= −log p + lam log((p² + (1 − p)²)/p²), for p = {p.tolist()} and 1 − p"
    )


def _even_odds(subject: Subject, case: Rankings) -> None:
    lam = subject.parameter("lam", 0.1)
    level, _ = of_equal_length(with_policy(case, case.log_probs[:, :1].expand_as(case.log_probs).contiguous()))
    means = (level.log_probs / lengths(level))[:, 0]
    expect_equal(subject(level), {"L": lam * math.log(2) - means}, note="= −log p + lam log 2 at equal odds")


def _hinge_of_log_probs(subject: Subject, case: Rankings) -> None:
    lacking = subject.parameter("delta", 1.0) - (case.log_probs[:, 0] - case.log_probs[:, 1])
    expect_equal(subject.of(lam=0.0)(case), {"L": lacking.clamp(min=0)}, note="= what log π(y_w) − log π(y_l) lacks")


_SIMPO: Final = "Meng et al. 2024, eq. 6"

CLAIMS: list[Property] = [
    claim(
        "without-imitation-is-dpo",
        "at weight 0 of supervised learning, L and g are those of dpo",
        "Pang et al. 2024, eq. 1; Liu et al. 2024, algorithm 2",
        _without_imitation,
    ),
    claim(
        "uniform-reference-is-dpo",
        "at lam = 0, L and g are those of dpo under a uniform reference",
        "Xu et al. 2024 (CPO), section 3.1",
        _uniform,
        applies=about("lam"),
    ),
    claim(
        "lam-weighs-imitation",
        "L = L(lam = 0) − lam log π of the chosen response",
        "Xu et al. 2024 (CPO), eq. 5; Zhao et al. 2023, eq. 1",
        _imitates,
        applies=about("lam"),
    ),
    claim(
        "single-tokens-are-dpo",
        "for responses of one token and gamma = 0, L and g are those of dpo under a uniform reference",
        _SIMPO,
        _single_tokens,
        applies=about("gamma"),
    ),
    claim(
        "gamma-is-a-handicap",
        "gamma acts as a chosen response whose mean log-probability is less by gamma/β",
        _SIMPO,
        _target_margin,
        applies=about("gamma"),
    ),
    claim(
        "small-odds-are-probabilities",
        "for improbable responses the odds ratio is the ratio of probabilities",
        "Hong et al. 2024, eq. 4",
        _small_odds,
    ),
    claim(
        "odds-of-complements-are-opposite",
        "for probabilities p and 1 − p per token the log-odds differ by 2 log(p/(1 − p))",
        "Hong et al. 2024, eq. 4",
        _complements,
        applies=about("lengths"),
    ),
    claim(
        "log-two-at-equal-odds",
        "L = −log p + lam log 2 for two responses of equal length and probability",
        "Hong et al. 2024, eq. 7",
        _even_odds,
    ),
    claim(
        "zero-beyond-delta",
        "at lam = 0, L = max(0, delta − log π(y_w) + log π(y_l))",
        "Zhao et al. 2023 (SLiC-HF), eq. 1",
        _hinge_of_log_probs,
        applies=about("delta"),
    ),
    claim(
        "imitation-is-per-token",
        "L = L(alpha = 0) − alpha log π of the chosen response per token",
        "Pang et al. 2024, eq. 1",
        _imitates_per_token,
        applies=about("alpha", "lengths"),
    ),
    claim(
        "imitation-in-units-of-beta",
        "L = L(eta = 0) − eta β log π of the chosen response",
        "Liu et al. 2024, algorithm 2",
        _imitates_in_units,
        applies=about("eta"),
    ),
]
