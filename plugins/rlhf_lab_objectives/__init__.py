"""Losses and what turns them into one number: roles objective, value, kl, aggregation and controller.

Losses are minimised. Everything is elementwise over leading axes, so runs never mix; the axis of time is last.
"""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_objectives.aggregation import Constant, SequenceMean, SequenceSum, TokenMean
from rlhf_lab_objectives.controller import AdaptiveKL, Fixed, ProportionalKL
from rlhf_lab_objectives.kl import K1, K2, K3, AbsoluteKL, FullKL
from rlhf_lab_objectives.policy_gradient import ImportanceWeighted, Reinforce
from rlhf_lab_objectives.ppo import PPOKL, PPOClip
from rlhf_lab_objectives.value import ClippedValue, HuberValue, MSEValue

__all__ = [
    "K1",
    "K2",
    "K3",
    "PPOKL",
    "AbsoluteKL",
    "AdaptiveKL",
    "ClippedValue",
    "Constant",
    "Fixed",
    "FullKL",
    "HuberValue",
    "ImportanceWeighted",
    "MSEValue",
    "PPOClip",
    "ProportionalKL",
    "Reinforce",
    "SequenceMean",
    "SequenceSum",
    "TokenMean",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components of this plugin."""
    return [
        *(Reinforce, ImportanceWeighted, PPOClip, PPOKL),
        *(MSEValue, ClippedValue, HuberValue),
        *(K1, AbsoluteKL, K2, K3, FullKL),
        *(TokenMean, SequenceMean, SequenceSum, Constant),
        *(Fixed, AdaptiveKL, ProportionalKL),
    ]
