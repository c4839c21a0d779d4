"""What the claims of advantage estimators share: sums over the future of every step, and how a claim is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.conformance.definitions.futures import Future, futures
from rlhf_lab.conformance.property import Check, Property, about
from rlhf_lab.conformance.subject import Subject
from rlhf_lab.types import Trajectories

__all__ = ["BEHAVIOUR", "CRITIC", "claim", "discounted_return", "each", "gamma_of"]

CRITIC: Final = frozenset({"values", "next_values"})
BEHAVIOUR: Final = CRITIC | {"log_probs", "target_log_probs"}


def each(batch: Trajectories, number: Callable[[Future], float]) -> Tensor:
    """Return a number of its future for every valid step, 0 elsewhere, ``[rows, t]``."""
    found = torch.zeros(batch.rewards.shape, dtype=torch.float64)
    for future in futures(batch):
        found[future.row, future.step] = number(future)
    return found


def gamma_of(subject: Subject) -> float:
    """Return the discount, 1 where there is none."""
    return float(subject.parameter("gamma", 1.0))


def discounted_return(future: Future, gamma: float) -> float:
    """Return the discounted rewards to the end, with the critic's value behind a cut."""
    paid = math.fsum(gamma**i * reward for i, reward in enumerate(future.rewards))
    return paid + gamma ** len(future.rewards) * future.values[-1]


def claim(
    id_: str, applies: str, statement: str, reference: str, check: Check, reads: frozenset[str] = CRITIC
) -> Property:
    """Return a claim that is worth asking of components with these parameters or required fields."""
    return Property(id_, "advantage", statement, reference, True, check, applies=about(*applies.split()), reads=reads)
