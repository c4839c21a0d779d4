"""Mutants of preference losses, and right ones in unusual form."""

from __future__ import annotations

from . import (
    preference_contract,
    preference_likelihoods,
    preference_margins,
    preference_responses,
    preference_tokens,
)
from .mutant import Mutant
from .preference_controls import CONTROLS

__all__ = ["CONTROLS", "MUTANTS"]

MUTANTS: list[Mutant] = [
    *preference_margins.MUTANTS,
    *preference_responses.MUTANTS,
    *preference_likelihoods.MUTANTS,
    *preference_tokens.MUTANTS,
    *preference_contract.MUTANTS,
]
