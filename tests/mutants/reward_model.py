"""Mutants of reward-model losses, and right ones in unusual form."""

from __future__ import annotations

from . import (
    reward_model_contract,
    reward_model_pairs,
    reward_model_rankings,
    reward_model_targets,
    reward_model_ties,
)
from .mutant import Mutant
from .reward_model_controls import CONTROLS

__all__ = ["CONTROLS", "MUTANTS"]

MUTANTS: list[Mutant] = [
    *reward_model_pairs.MUTANTS,
    *reward_model_ties.MUTANTS,
    *reward_model_rankings.MUTANTS,
    *reward_model_targets.MUTANTS,
    *reward_model_contract.MUTANTS,
]
