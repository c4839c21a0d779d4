"""Training loops and optimisers."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_trainers.best_of_n import BestOfN
from rlhf_lab_trainers.exact_gradient import ExactGradient
from rlhf_lab_trainers.offline import Offline
from rlhf_lab_trainers.online import Online
from rlhf_lab_trainers.online_preference import OnlinePreference
from rlhf_lab_trainers.optimizers import SGD, Adam
from rlhf_lab_trainers.prediction import Prediction
from rlhf_lab_trainers.rejection_sampling import RejectionSampling
from rlhf_lab_trainers.reward_model import RewardModel

__all__ = [
    "SGD",
    "Adam",
    "BestOfN",
    "ExactGradient",
    "Offline",
    "Online",
    "OnlinePreference",
    "Prediction",
    "RejectionSampling",
    "RewardModel",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the loops and optimisers."""
    loops: list[type[Component]] = [
        Online,
        Prediction,
        Offline,
        RewardModel,
        ExactGradient,
        BestOfN,
        OnlinePreference,
        RejectionSampling,
    ]
    return [*loops, Adam, SGD]
