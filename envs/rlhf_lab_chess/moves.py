"""Moves in positions as candidates that an actor can score: a move is a response of one token."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates

__all__ = ["side_by_side"]


def side_by_side(states: Tensor, slots: Tensor, **labels: Tensor | None) -> Candidates:
    """Return the moves ``slots [runs, rows, k]`` in the positions ``states [runs, rows]`` as candidates.

    Inputs, as of token strings with a single prefix per prompt: ``prompts [runs, rows]`` are states; ``prefixes`` (0),
    ``tokens`` (slots) and ``counted`` (True) are ``[runs, rows, k, 1]``.
    """
    tokens = slots[..., None]
    inputs = {
        "prompts": states,
        "prefixes": torch.zeros_like(tokens),
        "tokens": tokens,
        "counted": torch.ones_like(tokens, dtype=torch.bool),
    }
    return Candidates(inputs, torch.ones_like(slots), **labels)
