"""Training loops and optimisers."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_trainers.offline import Offline
from rlhf_lab_trainers.online import Online
from rlhf_lab_trainers.optimizers import SGD, Adam
from rlhf_lab_trainers.prediction import Prediction

__all__ = ["SGD", "Adam", "Offline", "Online", "Prediction"]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the loops and optimisers."""
    return [Online, Prediction, Offline, Adam, SGD]
