"""A few start states to enumerate from, where a world has too many."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.worlds.protocol import ExactWorld

__all__ = ["start_states"]


def start_states(world: ExactWorld, starts: int | None) -> Tensor | None:
    """Return ``[states]``: so many start states, equally likely; None (all of them) where ``starts`` is None.

    They are drawn without replacement, each time in proportion to the start distribution among those that are left: the
    first to arrive where each state arrives after an exponential time at the rate of its probability. Every arm and
    seed draws the same. Raises ``LabError`` where the world has fewer.

    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    if starts is None:
        return None
    possible = int((world.start > 0).sum())
    if starts > possible:
        raise LabError(
            f"exact.starts: {starts} are more start states than the {possible} of this world; give at most {possible}, "
            "or leave it out"
        )
    arrival = -Streams([0], "exact starts").uniforms(0, len(world.start))[0].log() / world.start
    first = arrival.topk(starts, largest=False).indices
    return torch.zeros_like(world.start).index_fill(0, first, 1 / starts)
