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
    at_ratios,
    at_the_reference,
    claim,
    dpo,
    lengths,
    pull,
    ratios,
    slopes,
    with_policy,
)
from rlhf_lab.conformance.property import Property, about, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Rankings

__all__ = ["CLAIMS", "beta_of", "first", "is_dpo", "of_equal_length"]

_SMALL: Final = 1e-6  # the least order that is taken


def _margin(case: Rankings) -> Tensor:
    a = ratios(case)
    return a[:, 0] - a[:, 1]


def beta_of(subject: Subject) -> float:
    """Return the component's beta."""
    return float(subject.parameter("beta", 0.1))


def is_dpo(subject: Subject, case: Rankings, note: str, tolerance: float = 1e-9) -> None:
    """Raise ``Violation`` where a component does not answer as dpo does."""
    expect_equal(subject(case), dpo(_margin(case), beta_of(subject)), note=f"by dpo, {note}", tolerance=tolerance)


def _unsmoothed(subject: Subject, case: Rankings) -> None:
    is_dpo(subject.of(label_smoothing=0.0), case, "for label_smoothing = 0")


def _reverse(subject: Subject, case: Rankings) -> None:
    is_dpo(subject.of(divergence="reverse"), case, "for the reverse divergence")


def _small_alpha(subject: Subject, case: Rankings) -> None:
    is_dpo(subject.of(divergence="alpha", alpha=_SMALL), case, "for alpha → 0", tolerance=1e-5)


def _alpha_one(subject: Subject, case: Rankings) -> None:
    due = slopes(subject.of(divergence="forward"), case)
    found = subject.of(divergence="alpha", alpha=1.0)(case)
    expect_equal(found, due, note="as for the forward divergence, at alpha = 1")


def of_equal_length(case: Rankings) -> tuple[Rankings, Tensor]:
    """Return the batch with responses as long as each row's first."""
    level = lengths(case)[:, :1].expand_as(case.log_probs).contiguous()
    return map_fields(case, lambda name, _, x: level if name == "lengths" else x), level


def _equally_long(subject: Subject, case: Rankings) -> None:
    here, length = of_equal_length(case)
    rate = beta_of(subject) / length[:, 0].to(case.log_probs)
    slope = rate * torch.sigmoid(-rate * _margin(here))
    due = {"L": -logsigmoid(rate * _margin(here)), "dL/dlog_probs": torch.stack([-slope, slope], dim=-1)}
    expect_equal(subject(here), due, note="by dpo with β/n, for responses of equal length n")


def _no_price(subject: Subject, case: Rankings) -> None:
    is_dpo(subject, of_equal_length(case)[0], "for responses of equal length")


def _price(subject: Subject, case: Rankings) -> None:
    """Move the margin by what the lengths add to it."""
    here, _ = of_equal_length(case)
    apart = (lengths(case)[:, 0] - lengths(case)[:, 1]).to(case.log_probs)
    longer = with_policy(here, here.log_probs + first(subject.parameter("alpha") * apart / beta_of(subject)))
    expect_equal(subject(case), slopes(subject, longer), note="as for equal lengths and h + alpha (|w| − |l|)/β")


def first(x: Tensor) -> Tensor:
    """Return numbers ``[rows, 2]``: x for the chosen response, 0 for the rejected one."""
    return torch.stack([x, torch.zeros_like(x)], dim=-1)


def _without_penalty(subject: Subject, case: Rankings) -> None:
    is_dpo(subject.of(lam=0.0), case, "for lam = 0")


def _unfallen(subject: Subject, case: Rankings) -> None:
    a = ratios(case)
    risen = at_ratios(case, torch.stack([a[:, 0].abs() + 0.25, a[:, 1]], dim=-1))
    is_dpo(subject, risen, "where π > π_ref of the chosen response")


def _penalty(subject: Subject, case: Rankings) -> None:
    a, lam = ratios(case), subject.parameter("lam", 50.0)
    fallen = -a[:, 0].abs() - 0.25
    here = at_ratios(case, torch.stack([fallen, a[:, 1]], dim=-1))
    due = dpo((1 + lam) * fallen - a[:, 1], beta_of(subject))
    slope = due["dL/dlog_probs"] * torch.tensor([1 + lam, 1.0], dtype=torch.float64)
    expect_equal(subject(here), {"L": due["L"], "dL/dlog_probs": slope}, note="by dpo at (1 + lam) a − b, where a < 0")


def _branches(subject: Subject, case: Rankings) -> None:
    b, sharp = ratios(case)[:, 1], subject.of(tau=0.25)
    for z in (10.0, -10.0):
        here = at_ratios(case, torch.stack([b + z / beta_of(subject), b], dim=-1))
        due = torch.full_like(b, math.exp(-z) if z > 0 else math.log1p(math.exp(-z)))
        expect_equal(sharp(here), {"L": due}, note=f"= {'e^−z' if z > 0 else '−log σ(z)'} at z = {z:g}, tau = ¼")


def _shifted(subject: Subject, case: Rankings) -> None:
    start = subject.parameter("shift", 0.0) / beta_of(subject)
    due = slopes(subject.of(shift=0.0), with_policy(case, case.log_probs - start))
    expect_equal(subject(case), due, note="as for shift = 0 and a, b less by δ/β")


def _generator(divergence: str, order: float, u: Tensor) -> Tensor:
    """Return f(u), of which D_f(π ‖ π_ref) is the mean over π_ref."""
    if divergence == "reverse":
        return u * u.log()
    if divergence == "forward":
        return -u.log()
    if divergence == "js":
        return u * u.log() - (u + 1) * ((u + 1) / 2).log()
    return (u ** (1 - order) - (1 - order) * u - order) / (order * (order - 1))


def _slopes_of_divergence(subject: Subject, case: Rankings) -> None:
    a = ratios(case)
    for divergence in ("reverse", "forward", "js", "alpha"):
        order = subject.parameter("alpha", 0.5)
        if divergence == "alpha" and order == 1:
            continue
        u, step = a.exp(), 2.0**-12
        above, below = (_generator(divergence, order, u * (1 + side * step)) for side in (1, -1))
        slope = (above - below) / (2 * step * u)
        due = {"L": -logsigmoid(beta_of(subject) * (slope[:, 0] - slope[:, 1]))}
        note = f"= −log σ(β (f'(u_w) − f'(u_l))), f' from central differences of f, for {divergence}"
        expect_equal(subject.of(divergence=divergence)(case), due, note=note, tolerance=1e-5)


def _keeps_pulling(subject: Subject, case: Rankings) -> None:
    far = at_ratios(case, torch.tensor([-30.0, 0.0], dtype=torch.float64).expand_as(case.log_probs))
    slope = pull(subject.of(divergence="forward"), far)[:, :1]
    due = -beta_of(subject) * torch.full_like(slope, math.exp(30))
    expect_equal({"g[chosen]": slope}, {"g[chosen]": due}, note="= −β/u at u = e^−30, for the forward divergence")


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
        "logistic-where-wrong",
        "far to the wrong side L = −log σ(z), far to the right one L = e^−z, z = β h",
        "Lu et al. 2024, eq. 5",
        _branches,
        applies=about("tau"),
    ),
    claim(
        "shift-moves-both",
        "a shift δ acts as a and b less by δ/β",
        "Jung et al. 2024, theorem 3",
        _shifted,
        applies=about("shift"),
    ),
    claim(
        "rewards-are-slopes-of-the-divergence",
        "rewards are β f'(u), with f' the derivative of the divergence's f at u = π/π_ref",
        _F_DPO,
        _slopes_of_divergence,
        applies=about("divergence"),
    ),
    claim(
        "rare-responses-keep-pulling",
        "for the forward divergence g = −β/u of a chosen response that has become rare",
        _F_DPO,
        _keeps_pulling,
        applies=about("divergence"),
    ),
    claim(
        "half-way-at-the-reference",
        "L = ½ (log 2 + 1), the mean of logistic and exponential loss, at π = π_ref",
        "Lu et al. 2024, eq. 5",
        _half_way,
    ),
]
