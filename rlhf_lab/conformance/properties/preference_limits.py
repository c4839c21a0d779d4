"""What a preference loss may claim of its place in the family: at which parameters and batches it is another member.

Throughout a and b are log(π/π_ref) of the chosen and of the rejected response, w and l their log-probabilities, h = a −
b and |y| a length.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.conformance.inputs import map_fields
from rlhf_lab.conformance.properties.response_answers import (
    SYMBOLS,
    at_ratios,
    at_the_reference,
    claim,
    dpo,
    lengths,
    ratios,
    with_policy,
)
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS"]

_SMALL: Final = 2.0**-24


def _margin(case: Rankings) -> Tensor:
    a = ratios(case)
    return a[:, 0] - a[:, 1]


def _beta(subject: Subject) -> float:
    return float(subject.parameter("beta", 0.1))


def _is_dpo(subject: Subject, case: Rankings, note: str, tolerance: float = 1e-9) -> None:
    expect_equal(subject(case), dpo(_margin(case), _beta(subject)), note=f"by dpo, {note}", tolerance=tolerance)


def _unsmoothed(subject: Subject, case: Rankings) -> None:
    _is_dpo(subject.of(label_smoothing=0.0), case, "for label_smoothing = 0")


def _reverse(subject: Subject, case: Rankings) -> None:
    _is_dpo(subject.of(divergence="reverse"), case, "for the reverse divergence")


def _small_alpha(subject: Subject, case: Rankings) -> None:
    _is_dpo(subject.of(divergence="alpha", alpha=_SMALL), case, "for alpha → 0", tolerance=1e-5)


def _alpha_one(subject: Subject, case: Rankings) -> None:
    due = subject.of(divergence="forward")(case)
    found = subject.of(divergence="alpha", alpha=1.0)(case)
    expect_equal(found, {symbol: due[symbol] for symbol in SYMBOLS}, note="as for the forward divergence, at alpha = 1")


def _equal_lengths(case: Rankings) -> tuple[Rankings, Tensor]:
    """Return the batch with responses as long as each row's first."""
    level = lengths(case)[:, :1].expand_as(case.log_probs).contiguous()
    return map_fields(case, lambda name, _, x: level if name == "lengths" else x), level


def _equally_long(subject: Subject, case: Rankings) -> None:
    here, length = _equal_lengths(case)
    rate = _beta(subject) / length[:, 0].to(case.log_probs)
    slope = rate * torch.sigmoid(-rate * _margin(here))
    due = {"L": -logsigmoid(rate * _margin(here)), "dL/dlog_probs": torch.stack([-slope, slope], dim=-1)}
    expect_equal(subject(here), due, note="by dpo with β/n, for responses of equal length n")


def _no_price(subject: Subject, case: Rankings) -> None:
    _is_dpo(subject, _equal_lengths(case)[0], "for responses of equal length")


def _price(subject: Subject, case: Rankings) -> None:
    """Move the margin by what the lengths add to it."""
    here, _ = _equal_lengths(case)
    apart = (lengths(case)[:, 0] - lengths(case)[:, 1]).to(case.log_probs)
    due = subject(with_policy(here, here.log_probs + _first(subject.parameter("alpha") * apart / _beta(subject))))
    expect_equal(
        subject(case),
        {symbol: due[symbol] for symbol in SYMBOLS},
        note="as for equal lengths and h + alpha (|w| − |l|)/β",
    )


def _first(x: Tensor) -> Tensor:
    return torch.stack([x, torch.zeros_like(x)], dim=-1)


def _without_penalty(subject: Subject, case: Rankings) -> None:
    _is_dpo(subject.of(lam=0.0), case, "for lam = 0")


def _unfallen(subject: Subject, case: Rankings) -> None:
    a = ratios(case)
    risen = at_ratios(case, torch.stack([a[:, 0].abs() + 0.25, a[:, 1]], dim=-1))
    _is_dpo(subject, risen, "where π > π_ref of the chosen response")


def _penalty(subject: Subject, case: Rankings) -> None:
    a, lam = ratios(case), subject.parameter("lam", 50.0)
    fallen = -a[:, 0].abs() - 0.25
    here = at_ratios(case, torch.stack([fallen, a[:, 1]], dim=-1))
    due = dpo((1 + lam) * fallen - a[:, 1], _beta(subject))
    slope = due["dL/dlog_probs"] * torch.tensor([1 + lam, 1.0], dtype=torch.float64)
    expect_equal(subject(here), {"L": due["L"], "dL/dlog_probs": slope}, note="by dpo at (1 + lam) a − b, where a < 0")


def _without_imitation(subject: Subject, case: Rankings) -> None:
    weight = next((name for name in ("alpha", "eta") if subject.has(name)), "alpha")
    _is_dpo(subject.of(**{weight: 0.0}), case, f"for {weight} = 0")


def _uniform(subject: Subject, case: Rankings) -> None:
    """Compare with dpo whose reference gives both responses the same probability."""
    due = dpo(case.log_probs[:, 0] - case.log_probs[:, 1], _beta(subject))
    expect_equal(subject.of(lam=0.0)(case), due, note="by dpo under a uniform reference, for lam = 0")


def _imitates(subject: Subject, case: Rankings) -> None:
    """Tell the part of the loss that its weight scales."""
    lam = subject.parameter("lam", 1.0)
    part = {"L − L'": subject(case)["L"] - subject.of(lam=0.0)(case)["L"]}
    expect_equal(part, {"L − L'": -lam * case.log_probs[:, 0]}, note="= −lam log π of the chosen, with L' at lam = 0")


def _single_tokens(subject: Subject, case: Rankings) -> None:
    one = torch.ones_like(lengths(case))
    here = map_fields(case, lambda name, _, x: one if name == "lengths" else x)
    due = dpo(case.log_probs[:, 0] - case.log_probs[:, 1], _beta(subject))
    note = "by dpo under a uniform reference, for responses of one token and gamma = 0"
    expect_equal(subject.of(gamma=0.0)(here), due, note=note)


def _target_margin(subject: Subject, case: Rankings) -> None:
    """Give the rejected response the margin as a start."""
    gamma = subject.parameter("gamma", 1.0)
    start = -_first(torch.ones_like(case.log_probs[:, 0])) * gamma / _beta(subject) * lengths(case)
    due = subject.of(gamma=0.0)(with_policy(case, case.log_probs + start))
    note = "as for gamma = 0 and log π(y_w)/|y_w| less by gamma/β"
    expect_equal(subject(case), {symbol: due[symbol] for symbol in SYMBOLS}, note=note)


def _small_odds(subject: Subject, case: Rankings) -> None:
    """Make both responses improbable: then odds are probabilities."""
    lam, count = subject.parameter("lam", 0.1), lengths(case)
    here = with_policy(case, case.log_probs - 40 * count)
    means = here.log_probs / count
    due = -means[:, 0] - lam * logsigmoid(means[:, 0] - means[:, 1])
    expect_equal(subject(here), {"L": due}, note="= −log p_w − lam log σ(log p_w/p_l), for p → 0")


def _even_odds(subject: Subject, case: Rankings) -> None:
    lam = subject.parameter("lam", 0.1)
    level, _ = _equal_lengths(with_policy(case, case.log_probs[:, :1].expand_as(case.log_probs).contiguous()))
    means = (level.log_probs / lengths(level))[:, 0]
    expect_equal(subject(level), {"L": lam * math.log(2) - means}, note="= −log p + lam log 2 at equal odds")


def _half_way(subject: Subject, case: Rankings) -> None:
    due = torch.full_like(case.log_probs[:, 0], 0.5 * (math.log(2) + 1))
    expect_equal(subject(at_the_reference(case)), {"L": due}, note="= ½ (log 2 + 1) at π = π_ref")


_SMAUG: Final = "Pal et al. 2024 (Smaug), eq. 3"
_F_DPO: Final = "Wang et al. 2023 (f-DPO), theorem 1 and table 1"
_SIMPO: Final = "Meng et al. 2024, eq. 6"

CLAIMS: list[Property] = [
    claim(
        "smoothing-zero-is-dpo",
        "at label_smoothing = 0, L and g are those of dpo",
        "Mitchell 2023",
        _unsmoothed,
        applies=about("label_smoothing"),
    ),
    claim(
        "reverse-is-dpo",
        "for the reverse divergence L and g are those of dpo",
        _F_DPO,
        _reverse,
        applies=about("divergence"),
    ),
    claim(
        "small-alpha-is-dpo",
        "as alpha → 0 the alpha-divergence gives dpo",
        _F_DPO,
        _small_alpha,
        applies=about("divergence"),
    ),
    claim(
        "alpha-one-is-forward",
        "at alpha = 1 the alpha-divergence is the forward one",
        _F_DPO,
        _alpha_one,
        applies=about("divergence"),
    ),
    claim(
        "equal-lengths-are-dpo",
        "for responses of equal length n, L and g are those of dpo with β/n",
        "Lambert et al. 2024 (Tulu 3), eq. 6",
        _equally_long,
    ),
    claim(
        "equal-lengths-have-no-price",
        "for responses of equal length L and g are those of dpo",
        "Park et al. 2024, eq. 9",
        _no_price,
    ),
    claim("length-shifts-the-margin", "lengths act as alpha (|w| − |l|)/β in h", "Park et al. 2024, eq. 9", _price),
    claim(
        "penalty-zero-is-dpo", "at lam = 0, L and g are those of dpo", _SMAUG, _without_penalty, applies=about("lam")
    ),
    claim("unfallen-is-dpo", "where a > 0, L and g are those of dpo", _SMAUG, _unfallen),
    claim("fallen-counts-more", "where a < 0, L is that of dpo at (1 + lam) a − b", _SMAUG, _penalty),
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
        "log-two-at-equal-odds",
        "L = −log p + lam log 2 for two responses of equal length and probability",
        "Hong et al. 2024, eq. 7",
        _even_odds,
    ),
    claim(
        "half-way-at-the-reference",
        "L = ½ (log 2 + 1), the mean of logistic and exponential loss, at π = π_ref",
        "Lu et al. 2024, eq. 5",
        _half_way,
    ),
]
