"""Logarithms and divergences of finite distributions, with 0 log 0 = 0 and gradients that are finite there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["divergence", "log"]


def log(probabilities: Tensor) -> Tensor:
    """Return the logarithm, -inf at 0, where its gradient is 0."""
    never = probabilities == 0
    return probabilities.masked_fill(never, 1).log().masked_fill(never, -math.inf)


def divergence(probs: Tensor, log_reference: Tensor) -> Tensor:
    """Return KL(p || q) = Σ_i p_i (log p_i - log q_i) ``[*b]`` of ``probs [*b,n]`` from log q ``[*b,n]``.

    What p never takes adds nothing; +inf where p takes what q never takes.
    """
    never = probs == 0
    difference = probs.masked_fill(never, 1).log() - torch.where(never, 0, log_reference)
    return (probs * difference).sum(-1)
