"""Token strings of which every response is known: the world of preference learning, its rewards and its data."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_sequences.environment import Sequences
from rlhf_lab_sequences.population import Population
from rlhf_lab_sequences.proxies import LearnedReward, RewardError
from rlhf_lab_sequences.rewards import RandomReward, TableReward, TokenReward
from rlhf_lab_sequences.sampled import Sampled

__all__ = [
    "LearnedReward",
    "Population",
    "RandomReward",
    "RewardError",
    "Sampled",
    "Sequences",
    "TableReward",
    "TokenReward",
    "rlhf_lab_components",
]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environment, rewards and data."""
    return [Sequences, Sampled, Population, RandomReward, TokenReward, TableReward, RewardError, LearnedReward]
