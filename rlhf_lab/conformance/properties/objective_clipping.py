"""What a policy objective that bounds its ratio may claim: where the gradient ends, and what is left there.

The parameters are those of the definitions of record: ``clip``, or ``clip_low`` and ``clip_high``; ``c`` of a dual
clip; ``cap`` of a truncated weight. One that is missing bounds nothing.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.inputs import segments, with_fields
from rlhf_lab.conformance.properties.objective_claims import claim
from rlhf_lab.conformance.properties.policy_cases import expect_slope, log_ratio
from rlhf_lab.conformance.property import Property, Violation, expect_equal
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import PolicyBatch

__all__ = ["CLAIMS", "unclipped"]

_FAR: Final = 2.0**40  # a bound that nothing reaches; infinity itself is refused by many
_NEAR: Final = 1e-9
_SIDES: Final = ("clip_low", "clip_high")


def _sides(subject: Subject) -> tuple[float, float]:
    """Return how far the ratio may pay off below and above 1."""
    both = subject.parameter("clip")
    low, high = (subject.parameter(name) for name in _SIDES)
    low, high = (both if low is None else low), (both if high is None else high)
    if low is None or high is None:
        subject.field("clip")  # raises, and says what is missing
    return float(low), float(high)


def _edges(subject: Subject, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ratios between which a step has its gradient, by the sign of its advantage."""
    low, high = _sides(subject)
    most = float(subject.parameter("c", math.inf))
    good = advantages > 0
    least = torch.where(good, -math.inf, torch.full_like(advantages, 1 - low))
    return least, torch.where(good, torch.full_like(advantages, 1 + high), most)


def unclipped(subject: Subject) -> Subject:
    """Return the subject with every bound on its ratio far beyond all ratios."""
    sides = {"clip": _FAR, "clip_low": None, "clip_high": None} if subject.has("clip") else dict.fromkeys(_SIDES, _FAR)
    bounds = {**sides, "c": _FAR, "cap": _FAR}
    found = {name: value for name, value in bounds.items() if subject.has(name)}
    if not found:
        raise Violation("no parameter clip", "one, which the claim is about; `conventions` names yours")
    return subject.of(**found)


def _support(subject: Subject, case: PolicyBatch) -> None:
    ratio, slope = log_ratio(subject, case).exp(), subject(case)["dL/dlog_probs"]
    low, high = _edges(subject, case.advantages)
    counts = case.valid & (case.advantages != 0)
    outside = (ratio < low - _NEAR) | (ratio > high + _NEAR)
    inside = (ratio > low + _NEAR) & (ratio < high - _NEAR)
    answer = {"dL/dlog_probs": slope}
    expect_equal(answer, {"dL/dlog_probs": torch.zeros_like(slope)}, counts & outside, note="beyond the clip edge")
    due = torch.where(slope == 0, -ratio * case.advantages, slope)
    expect_equal(answer, {"dL/dlog_probs": due}, counts & inside, note="or of its sign: no gain is clipped here")


def _inside(subject: Subject, case: PolicyBatch) -> None:
    ratio = log_ratio(subject, case).exp()
    low, high = _edges(subject, case.advantages)
    inside = case.valid & (ratio > low + _NEAR) & (ratio < high - _NEAR)
    due = -ratio * case.advantages
    expect_equal(subject(case), {"L": due, "dL/dlog_probs": due}, inside, note="= −ρ A: nothing is clipped here")


def _beyond(subject: Subject, case: PolicyBatch) -> None:
    ratio = log_ratio(subject, case).exp()
    low, high = _edges(subject, case.advantages)
    due = -torch.minimum(torch.maximum(ratio, low), high) * case.advantages
    outside = case.valid & ((ratio <= low) | (ratio >= high))
    expect_equal(subject(case), {"L": due}, outside, note="= −A times the clip edge")


def _infinite(subject: Subject, case: PolicyBatch) -> None:
    due = -log_ratio(subject, case).exp() * case.advantages
    found = unclipped(subject)(case)
    expect_equal(found, {"L": due, "dL/dlog_probs": due}, case.valid, note="= −ρ A without a bound")


def _capped(subject: Subject, case: PolicyBatch) -> None:
    high, low = subject.parameter("clip_high"), subject.parameter("clip_low")
    if high is None:
        subject.field("cap")  # raises where there is neither
    cap = subject.parameter("cap") if high is None else 1 + high
    weight = log_ratio(subject, case).exp().clamp(None if low is None else 1 - low, cap)
    note = f"= −min(ρ, {cap:g}) A"
    expect_equal(subject(case), {"dL/dlog_probs": -weight * case.advantages}, case.valid, note=note)


def _bounded(subject: Subject, case: PolicyBatch) -> None:
    most = float(getattr(subject.component, subject.field("c")))
    answer, bound = subject(case), -most * case.advantages
    bad = case.valid & (case.advantages < 0)
    expect_equal(answer, {"L": torch.minimum(answer["L"], bound)}, bad, note=f"= {most:g} |A|, or less")


def _saturates(subject: Subject, case: PolicyBatch) -> None:
    """Put the ratio at e³⁰, where a sigmoid of it is 1."""
    far = subject(with_fields(case, {"log_probs": case.log_probs - log_ratio(subject, case) + 30.0}))
    good = torch.full_like(case.advantages, subject.parameter("tau_pos", 1.0))
    tau = torch.where(case.advantages > 0, good, subject.parameter("tau_neg", 1.05))
    expect_equal(far, {"L": -4 / tau * case.advantages}, case.valid, note="= −(4/τ) A at ρ = e³⁰")


def _level_ratios(subject: Subject, case: PolicyBatch) -> PolicyBatch:
    """Return the batch with all log-ratios of an episode equal to their mean."""
    log_probs, ratios = case.log_probs.clone(), log_ratio(subject, case)
    for episode in segments(case):
        steps = list(episode.steps)
        log_probs[episode.row, steps] += ratios[episode.row, steps].mean() - ratios[episode.row, steps]
    return with_fields(case, {"log_probs": log_probs})


def _episode_mean(subject: Subject, case: PolicyBatch) -> None:
    answer, level = subject(case), subject(_level_ratios(subject, case))
    due = {symbol: level[symbol] for symbol in ("L", "dL/dlog_probs")}
    expect_equal(answer, due, case.valid, note="as with all log-ratios of an episode equal to their mean")


def _one_gradient(subject: Subject, case: PolicyBatch) -> None:
    slope = subject(case)["dL/dlog_probs"]
    due = slope.clone()
    for episode in segments(case):
        due[episode.row, list(episode.steps)] = slope[episode.row, episode.steps[0]]
    expect_equal({"dL/dlog_probs": slope}, {"dL/dlog_probs": due}, case.valid, note="as the episode's first step gets")


def _equal_ratios(subject: Subject, case: PolicyBatch) -> None:
    level = _level_ratios(subject, case)
    ratio = log_ratio(subject, level).exp()
    low, high = _edges(subject, case.advantages)
    held = torch.minimum(torch.maximum(ratio, low), high)
    expect_equal(subject(level), {"L": -held * case.advantages}, case.valid, note="as ppo_clip gives at this ratio")
    live = torch.where(held == ratio, -ratio * case.advantages, torch.zeros_like(ratio))
    expect_slope(subject, level, live, note="as ppo_clip gives at this ratio")


CLAIMS: list[Property] = [
    claim(
        "clip-gradient-support",
        "the gradient is 0 exactly where A > 0 and ρ > 1 + clip_high, or A < 0 and ρ < 1 − clip_low, or A = 0; with a "
        "dual clip also where A < 0 and ρ > c",
        "Schulman et al. 2017, eq. 7 and figure 1; takuseno/ppo issue 3",
        _support,
        cases=None,
        share=1.0,
    ),
    claim(
        "inside-clip-is-importance-weighted",
        "where no clip acts, L = g = −ρ A",
        "Schulman et al. 2017, eq. 7 and figure 1",
        _inside,
        cases=None,
        share=1.0,
    ),
    claim(
        "beyond-clip-is-the-edge",
        "where a clip acts, L = −A times its edge",
        "Schulman et al. 2017, eq. 7 and figure 1",
        _beyond,
        cases=None,
        share=1.0,
    ),
    claim(
        "clip-infinite-is-importance-weighted",
        "without a bound on the ratio, L = g = −ρ A",
        "Schulman et al. 2017, eq. 6 and 7",
        _infinite,
    ),
    claim(
        "gradient-is-capped-ratio",
        "g = −min(ρ, cap) A, cap or 1 + clip_high (with ρ at least 1 − clip_low where that is set): a bound on the "
        "weight of a step never ends its gradient",
        "Chen et al. 2025 (MiniMax-M1), eq. 4 and 5; Espeholt et al. 2018, section 4.2",
        _capped,
        cases=None,
        share=1.0,
    ),
    claim(
        "bounded-where-bad",
        "L ≤ c |A| where A < 0",
        "Ye et al. 2020, eq. 3",
        _bounded,
        cases=None,
        share=1.0,
    ),
    claim(
        "saturates",
        "L → −(4/τ) A as ρ grows, τ = tau_pos where A > 0, else tau_neg",
        "Gao et al. 2025 (SAPO), eq. 6",
        _saturates,
    ),
    claim(
        "episode-mean-of-log-ratios",
        "an episode's log-ratios matter through their mean only: one ratio per episode, their geometric mean",
        "Zheng et al. 2025 (GSPO), eq. 7",
        _episode_mean,
    ),
    claim(
        "one-gradient-per-episode",
        "all steps of an episode with one advantage get the same gradient",
        "Zheng et al. 2025 (GSPO), eq. 10",
        _one_gradient,
    ),
    claim(
        "equal-ratios-are-ppo-clip",
        "an episode whose steps have equal ratios and advantages gets on each step what ppo_clip gives it",
        "Zheng et al. 2025 (GSPO), section 4.1",
        _equal_ratios,
    ),
]
