"""Worlds whose truth is known, and the exact error of an estimator in them."""

from rlhf_lab.worlds.estimator_error import EstimatorError, GradientError, estimator_error, gradient_error
from rlhf_lab.worlds.protocol import Enumeration, ExactWorld, WorldError
from rlhf_lab.worlds.sequences import Optimum, SequenceWorld
from rlhf_lab.worlds.tabular import TabularMDP
from rlhf_lab.worlds.turn_ending import Ending
from rlhf_lab.worlds.turns import TurnWorld

__all__ = [
    "Ending",
    "Enumeration",
    "EstimatorError",
    "ExactWorld",
    "GradientError",
    "Optimum",
    "SequenceWorld",
    "TabularMDP",
    "TurnWorld",
    "WorldError",
    "estimator_error",
    "gradient_error",
]
