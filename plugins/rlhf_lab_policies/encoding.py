"""Observations as feature vectors, for policies that multiply these by weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.training.protocols import Spaces

__all__ = ["encode", "encoding"]


def encoding(spaces: Spaces) -> Tensor | None:
    """Return the feature vectors of a finite world's states ``[states, d]``, or None where observations are vectors."""
    if spaces.states is None:
        return None
    return torch.eye(spaces.states) if spaces.features is None else spaces.features.to(torch.get_default_dtype())


def encode(observations: Tensor, features: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return ``[runs, n, d]``: the features of states ``[runs, n]``, or observations ``[runs, n, ...]`` as vectors."""
    if features is not None:
        return features[observations]
    return observations.reshape(*observations.shape[:2], -1).to(dtype)
