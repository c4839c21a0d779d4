"""Definitions of record of role value: the loss of a step, and by hand its derivative with respect to the value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from rlhf_lab.conformance.definitions.definition import Definition
from rlhf_lab.conformance.definitions.stepwise import EDGE, held, stepwise

__all__ = ["DEFINITIONS"]

Step = Mapping[str, float]

_SLOPES: Final = ("L", "dL/dvalues")


def _error(step: Step) -> float:
    return step["values"] - step["returns"]


def _mse(step: Step) -> tuple[float, float]:
    return 0.5 * _error(step) ** 2, _error(step)


def _clipped(step: Step, clip: float) -> tuple[float, float]:
    old = step["old_values"]
    near = held(step["values"] - old, -clip, clip)
    free, kept = _error(step) ** 2, (old + near.value - step["returns"]) ** 2
    if near.slope == 1 or free > kept + EDGE:
        return _mse(step)
    return 0.5 * max(free, kept), 0.0 if near.slope == 0 and kept > free + EDGE else math.nan


def _huber(step: Step, delta: float) -> tuple[float, float]:
    error = _error(step)
    if abs(error) <= delta:
        return _mse(step)
    return delta * (abs(error) - 0.5 * delta), math.copysign(delta, error)


DEFINITIONS: list[Definition] = [
    Definition("value", "mse", "L = ½ (V − R)²", "Sutton & Barto 2018, eq. 9.1", {}, stepwise(_mse, _SLOPES)),
    Definition(
        "value",
        "clipped",
        "L = ½ max((V − R)², (V_old + clip(V − V_old, −clip, clip) − R)²)",
        "Dhariwal et al. 2017 (OpenAI Baselines, ppo2)",
        {"clip": 0.2},
        stepwise(_clipped, _SLOPES),
        reads=frozenset({"old_values"}),
    ),
    Definition(
        "value",
        "huber",
        "L = ½ e² where |e| ≤ delta, else delta (|e| − ½ delta), e = V − R",
        "Huber 1964",
        {"delta": 1.0},
        stepwise(_huber, _SLOPES),
    ),
]
