"""First-party advantage estimators and normalisers: returns, baselines, critics, groups."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_advantages.baselines import (
    ConstantBaseline,
    LeaveOneOutBaseline,
    OptimalBaseline,
    RunningMeanBaseline,
    ValueBaseline,
)
from rlhf_lab_advantages.critic import GAE, NStep, TDLambda, TemporalDifference
from rlhf_lab_advantages.groups import GRPO, RLOO, GroupMean
from rlhf_lab_advantages.normalizers import BatchNormalizer, GroupNormalizer, NoNormalizer
from rlhf_lab_advantages.off_policy import VTrace
from rlhf_lab_advantages.returns import MonteCarlo, TotalReturn

__all__ = [
    "GAE",
    "GRPO",
    "RLOO",
    "BatchNormalizer",
    "ConstantBaseline",
    "GroupMean",
    "GroupNormalizer",
    "LeaveOneOutBaseline",
    "MonteCarlo",
    "NStep",
    "NoNormalizer",
    "OptimalBaseline",
    "RunningMeanBaseline",
    "TDLambda",
    "TemporalDifference",
    "TotalReturn",
    "VTrace",
    "ValueBaseline",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return this package's components."""
    return [
        TotalReturn,
        MonteCarlo,
        ConstantBaseline,
        LeaveOneOutBaseline,
        OptimalBaseline,
        RunningMeanBaseline,
        ValueBaseline,
        TemporalDifference,
        NStep,
        TDLambda,
        GAE,
        VTrace,
        RLOO,
        GRPO,
        GroupMean,
        NoNormalizer,
        BatchNormalizer,
        GroupNormalizer,
    ]
