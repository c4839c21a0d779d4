"""The scores of tabular softmax logits as a whole table: the oracle of what the host computes without one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["softmax_scores"]


def softmax_scores(policy: Tensor) -> Tensor:
    """Return ∂ log π(a|s) / ∂θ ``[s,a,s*a]`` for tabular softmax logits: 1[s=s'] (1[a=a'] - π(a'|s))."""
    states, actions = policy.shape
    scores = torch.zeros(states, actions, states, actions, dtype=torch.float64)
    each = torch.arange(states)
    scores[each, :, each] = torch.eye(actions, dtype=torch.float64) - policy.to(torch.float64)[:, None, :]
    return scores.flatten(2)
