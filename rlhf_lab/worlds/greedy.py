"""What is best by a table of action values."""

from __future__ import annotations

from typing import Final

from torch import Tensor

__all__ = ["TIE", "best_actions", "greedy_policy"]

TIE: Final = 1e-9
"""Action values that differ by less are equal up to rounding."""


def best_actions(action_values: Tensor) -> Tensor:
    """Return which actions have the largest of ``action_values [*b,s,a]``, ties included, bool ``[*b,s,a]``."""
    return action_values >= action_values.amax(-1, keepdim=True) - TIE


def greedy_policy(action_values: Tensor) -> Tensor:
    """Return ``[*b,s,a]``: every best action equally probable."""
    best = best_actions(action_values).to(action_values)
    return best / best.sum(-1, keepdim=True)
