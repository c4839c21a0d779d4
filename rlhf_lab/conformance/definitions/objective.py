"""Definitions of record of role objective: the loss of a step, and by hand its derivative with respect to log π.

Throughout ρ = exp(log π − log π_old) and A is the step's advantage, which carries no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.stepwise import held, stepwise
from rlhf_lab.conformance.inputs import level, segments
from rlhf_lab.conformance.strategies import policy_batches
from rlhf_lab.types import PolicyBatch

__all__ = ["DEFINITIONS"]

Step = Mapping[str, float]
Bound = float | None

_SLOPES: Final = ("L", "dL/dlog_probs")
_SIDES: Final = {"clip": 0.2, "clip_low": None, "clip_high": None}


def _reinforce(step: Step) -> tuple[float, float]:
    return -step["advantages"] * step["log_probs"], -step["advantages"]


def _a2c(step: Step, entropy_coef: float) -> tuple[float, float, float]:
    loss, slope = _reinforce(step)
    return loss - entropy_coef * step["entropy"], slope, -entropy_coef


def _log_ratio(step: Step) -> float:
    return step["log_probs"] - step["old_log_probs"]


def _importance_weighted(step: Step) -> tuple[float, float]:
    gain = math.exp(_log_ratio(step)) * step["advantages"]
    return -gain, -gain


def _clipped(ratio: float, advantage: float, low: float, high: float, most: float = math.inf) -> tuple[float, float]:
    """Return loss and slope of an advantage: gains end at ``high``; losses at ``low`` and, if at all, at ``most``."""
    if advantage == 0:
        return 0.0, 0.0
    found = held(ratio, -math.inf, high) if advantage > 0 else held(ratio, low, most)
    return -advantage * found.value, -advantage * ratio * found.slope


def _ppo_clip(
    step: Step, clip: float, clip_low: Bound, clip_high: Bound, most: float = math.inf
) -> tuple[float, float]:
    low, high = (clip if side is None else side for side in (clip_low, clip_high))
    return _clipped(math.exp(_log_ratio(step)), step["advantages"], 1 - low, 1 + high, most)


def _ppo_dual_clip(step: Step, clip: float, clip_low: Bound, clip_high: Bound, c: float) -> tuple[float, float]:
    return _ppo_clip(step, clip, clip_low, clip_high, most=c)


def _k3(log_ratio: float) -> float:
    """Return ``u − 1 − log u``, exact near 1."""
    return math.expm1(log_ratio) - log_ratio


def _ppo_kl(step: Step, coef: float) -> tuple[float, float]:
    loss, slope = _importance_weighted(step)
    log_ratio = _log_ratio(step)
    return loss + coef * _k3(log_ratio), slope + coef * math.expm1(log_ratio)


def _grpo(step: Step, clip: float, clip_low: Bound, clip_high: Bound, beta: float) -> tuple[float, float]:
    loss, slope = _ppo_clip(step, clip, clip_low, clip_high)
    log_ratio = step["ref_log_probs"] - step["log_probs"]
    return loss + beta * _k3(log_ratio), slope - beta * math.expm1(log_ratio)


def _weighted_score(step: Step, weight: float) -> tuple[float, float]:
    slope = -weight * step["advantages"]
    return slope * step["log_probs"], slope


def _cispo(step: Step, clip_low: Bound, clip_high: float) -> tuple[float, float]:
    low = 0.0 if clip_low is None else 1 - clip_low
    return _weighted_score(step, min(max(math.exp(_log_ratio(step)), low), 1 + clip_high))


def _tis(step: Step, cap: float) -> tuple[float, float]:
    return _weighted_score(step, min(math.exp(step["log_probs"] - step["behaviour_log_probs"]), cap))


def _sapo(step: Step, tau_pos: float, tau_neg: float) -> tuple[float, float]:
    ratio, advantage = math.exp(_log_ratio(step)), step["advantages"]
    tau = tau_pos if advantage > 0 else tau_neg
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    return -4 / tau * gate * advantage, -4 * gate * (1 - gate) * ratio * advantage


def _sequence_ratio(batch: PolicyBatch, clip_low: float, clip_high: float) -> Mapping[str, Tensor]:
    """Clip one ratio per episode, each step with its own advantage; equal ones give the sequence form its gradient."""
    loss, slope = (torch.zeros(batch.valid.shape, dtype=torch.float64) for _ in range(2))
    assert batch.old_log_probs is not None
    log_ratio = (batch.log_probs.detach() - batch.old_log_probs).tolist()
    for episode in segments(batch):
        mean = sum(log_ratio[episode.row][t] for t in episode.steps) / len(episode.steps)
        for t in episode.steps:
            advantage = float(batch.advantages[episode.row, t])
            found = _clipped(math.exp(mean), advantage, 1 - clip_low, 1 + clip_high)
            loss[episode.row, t], slope[episode.row, t] = found
    return {"L": loss, "dL/dlog_probs": slope}


def _define(
    name: str,
    statement: str,
    reference: str,
    answer: Callable[..., Mapping[str, Tensor]],
    parameters: Mapping[str, Any],
    *more: str,
    cases: Any = None,
) -> Definition:
    reads = frozenset(more or ("old_log_probs",)) - {"log_probs"}
    return Definition("objective", name, statement, reference, parameters, answer, reads, cases=cases)


DEFINITIONS: list[Definition] = [
    _define("reinforce", "L = −A log π", "Williams 1992, theorem 1", stepwise(_reinforce, _SLOPES), {}, "log_probs"),
    _define(
        "a2c",
        "L = −A log π − entropy_coef H: the policy's part of the loss",
        "Mnih et al. 2016, section 4",
        stepwise(_a2c, (*_SLOPES, "dL/dentropy")),
        {"entropy_coef": 0.01},
        "entropy",
    ),
    _define(
        "importance_weighted",
        "L = −ρ A",
        "Schulman et al. 2017, eq. 6",
        stepwise(_importance_weighted, _SLOPES),
        {},
    ),
    _define(
        "ppo_clip",
        "L = −min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A); clip stands for the side that is None",
        "Schulman et al. 2017, eq. 7",
        stepwise(_ppo_clip, _SLOPES),
        _SIDES,
    ),
    _define(
        "ppo_dual_clip",
        "L = −max(min(ρ A, clip(ρ) A), c A) where A < 0, else that of ppo_clip",
        "Ye et al. 2020, eq. 3",
        stepwise(_ppo_dual_clip, _SLOPES),
        {**_SIDES, "c": 3.0},
    ),
    _define(
        "ppo_kl",
        "L = −ρ A + coef (ρ − 1 − log ρ), with the coefficient before the first step",
        "Schulman et al. 2017, eq. 8, with the penalty of the drawn action",
        stepwise(_ppo_kl, _SLOPES),
        {"coef": 1.0},
    ),
    _define(
        "grpo",
        "L = that of ppo_clip + beta (u − 1 − log u), u = π_ref / π",
        "Shao et al. 2024, eq. 3 and 4",
        stepwise(_grpo, _SLOPES),
        {**_SIDES, "beta": 0.04},
        "old_log_probs",
        "ref_log_probs",
    ),
    _define(
        # MiniMax-M1 prints no number for its upper side; 4 caps the weight at 5, as in Khatri et al. 2025 (ScaleRL).
        "cispo",
        "L = −sg(clip(ρ, 1 − clip_low, 1 + clip_high)) A log π; without a lower bound where clip_low is None",
        "Chen et al. 2025 (MiniMax-M1), eq. 4 and 5",
        stepwise(_cispo, _SLOPES),
        {"clip_low": None, "clip_high": 4.0},
    ),
    _define(
        "tis",
        "L = −sg(min(π / π_behaviour, cap)) A log π",
        "Espeholt et al. 2018, section 4.2",
        stepwise(_tis, _SLOPES),
        {"cap": 2.0},
        "behaviour_log_probs",
    ),
    _define(
        "sapo",
        "L = −(4/τ) sigmoid(τ (ρ − 1)) A, τ = tau_pos where A > 0, else tau_neg",
        "Gao et al. 2025 (SAPO), eq. 6",
        stepwise(_sapo, _SLOPES),
        {"tau_pos": 1.0, "tau_neg": 1.05},
    ),
    _define(
        "gspo",
        "L = −min(s A, clip(s, 1 − clip_low, 1 + clip_high) A) on each step, s = exp(mean of log ρ over the episode), "
        "for one advantage per episode",
        "Zheng et al. 2025 (GSPO), eq. 5 to 7",
        _sequence_ratio,
        {"clip_low": 3e-4, "clip_high": 4e-4},
        cases=policy_batches().map(lambda batch: level(batch, "advantages")),
    ),
    _define(
        "gspo_token",
        "as gspo, with s = sg(s) π / sg(π) of the step, so that steps may differ in their advantages",
        "Zheng et al. 2025 (GSPO), eq. 13 and 14",
        _sequence_ratio,
        {"clip_low": 3e-4, "clip_high": 4e-4},
    ),
]
