"""Chess endings of which every move's true worth is known: worlds, opponents, rewards and records.

Importing the package registers the endings with Gymnasium, so ``gymnasium.make("rlhf_lab_chess:rlhf_lab/KRK-v0")``
finds them; see ``gymnasium_env`` for all ids.
"""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_chess.data import ChessRecords
from rlhf_lab_chess.environment import KPK, KQK, KRK
from rlhf_lab_chess.gymnasium_env import register
from rlhf_lab_chess.mask_in_obs import MaskInObs, VectorMaskInObs
from rlhf_lab_chess.opponents import EpsilonOptimal, OptimalDefence, RandomReplies, SoftmaxDefence
from rlhf_lab_chess.rewards import Coach, MaterialReward, Outcome, PotentialMaterial, StepCost

__all__ = [
    "KPK",
    "KQK",
    "KRK",
    "ChessRecords",
    "Coach",
    "EpsilonOptimal",
    "MaskInObs",
    "MaterialReward",
    "OptimalDefence",
    "Outcome",
    "PotentialMaterial",
    "RandomReplies",
    "SoftmaxDefence",
    "StepCost",
    "VectorMaskInObs",
    "rlhf_lab_components",
]

register()


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environments, opponents, rewards and records."""
    return [
        *(KQK, KRK, KPK),
        *(RandomReplies, OptimalDefence, EpsilonOptimal, SoftmaxDefence),
        *(Outcome, StepCost, MaterialReward, PotentialMaterial, Coach),
        ChessRecords,
    ]
