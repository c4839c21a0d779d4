"""Mutants of policy objectives, and right ones in unusual form."""

from __future__ import annotations

from rlhf_lab.components import Component

from . import objective_contract, objective_controls, objective_others, objective_ppo, objective_right, objective_score
from .mutant import Mutant

__all__ = ["CONTROLS", "MUTANTS"]

MUTANTS: list[Mutant] = [
    *objective_score.MUTANTS,
    *objective_contract.MUTANTS,
    *objective_ppo.MUTANTS,
    *objective_others.MUTANTS,
]
CONTROLS: list[type[Component]] = [*objective_controls.CONTROLS, *objective_right.RIGHT]
