"""Where the broken advantage estimators are entered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from mutants.mutant import Mutant
from rlhf_lab.components import AdvantageEstimator

__all__ = ["ENTERED", "mutant", "shifted"]

ENTERED: Final[list[Mutant]] = []


def mutant(bug: str, imitates: str) -> Callable[[type[AdvantageEstimator]], type[AdvantageEstimator]]:
    """Enter the class below as a mutant; its component name is its own, in snake case."""

    def enter(cls: type[AdvantageEstimator]) -> type[AdvantageEstimator]:
        ENTERED.append(Mutant(bug, cls, imitates))
        return cls

    return enter


def shifted(x: Tensor, fill: float | bool) -> Tensor:
    """Return x one step earlier: what stands at t + 1."""
    return torch.cat([x[..., 1:], torch.full_like(x[..., :1], fill)], dim=-1)
