"""What every world demands of its tables and of the policies that it is asked about."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from rlhf_lab.worlds.protocol import WorldError

__all__ = [
    "TABLE_TOLERANCE",
    "checked_policy",
    "checked_start",
    "demand",
    "demand_distribution",
    "demand_nowhere",
    "demand_price",
    "is_mask",
    "rescaled",
]

TABLE_TOLERANCE: Final = 1e-8
_ROUNDING: Final = 1e-5  # a float32 softmax passes
_LARGEST: Final = 1e10  # of r / β, beside which a float64 tells log-probabilities to 1e-6


def demand(ok: bool, name: str, due: str, found: object) -> None:
    """Raise ``WorldError`` unless ``ok``, saying what was due and what was found."""
    if not ok:
        what = f"shape {list(found.shape)} {found.dtype}" if isinstance(found, Tensor) else repr(found)
        raise WorldError(f"{name}: expected {due}, found {what}")


def demand_nowhere(off: Tensor, name: str, due: str) -> None:
    """Raise ``WorldError`` with the first place where ``off`` is True."""
    if bool(off.any()):
        raise WorldError(f"{name}: expected {due}, found otherwise at index {off.nonzero()[0].tolist()}")


def demand_distribution(x: Tensor, name: str, closed: Tensor | None = None) -> None:
    """Raise ``WorldError`` unless ``x [n]`` are probabilities that sum to one, 0 where ``closed [n]`` (terminal)."""
    off = x < 0 if closed is None else (x < 0) | (closed & (x != 0))
    demand_nowhere(off, name, "probabilities" if closed is None else "probabilities, 0 at terminal states")
    total = float(x.sum())
    demand(abs(total - 1) <= TABLE_TOLERANCE, name, "sum 1", total)


def demand_price(beta: float, reward: Tensor | None = None) -> None:
    """Raise ``WorldError`` unless ``beta`` is a price, and leaves exp(r / beta) of the ``reward`` in reach."""
    demand(beta > 0 and math.isfinite(beta), "beta", "a number above 0, the price of the KL", beta)
    largest = 0.0 if reward is None else float(reward.abs().amax()) / beta
    if largest > _LARGEST:
        raise WorldError(
            f"reward: too large for exp(r / beta): r / beta reaches {largest:.3g}, and above {_LARGEST:g} "
            "log-probabilities beside it are lost to rounding; lower the rewards' scale, or raise beta"
        )


def is_mask(x: Tensor, *shape: int) -> bool:
    """Return whether ``x`` is a bool tensor of this shape."""
    return x.shape == shape and x.dtype == torch.bool


def rescaled(probs: Tensor, name: str, over: str) -> Tensor:
    """Return ``probs [*b,n]`` in float64, rescaled to sum to one; ``over`` names the last axis in the message.

    Raises ``WorldError`` where a number is negative, or where a sum is further from one than float32 rounds.
    """
    probs = probs.to(torch.float64)
    total = probs.sum(-1)
    off = ~((total - 1).abs() <= _ROUNDING) | (probs < 0).any(-1)
    demand_nowhere(off, name, f"probabilities that sum to one over {over}")
    return probs / total[..., None]


def checked_policy(
    policy: Tensor, actions: int, terminal: Tensor, legal: Tensor | None, name: str = "policy"
) -> Tensor:
    """Return ``policy [*b,s,a]`` in float64, rows summing to one, zero rows at ``terminal [s]`` states.

    Raises ``WorldError`` for another shape, for rows that are no probabilities, and for an action that is not
    ``legal [s,a]`` (None = all are).
    """
    shape = (len(terminal), actions)
    demand(policy.ndim >= 2 and policy.shape[-2:] == shape, name, f"shape [*b,{shape[0]},{shape[1]}]", policy)
    # nobody acts at a terminal state, so its row may be anything
    policy = rescaled(policy.masked_fill(terminal[:, None], 1 / actions), name, "actions")
    policy = policy.masked_fill(terminal[:, None], 0)
    if legal is not None:
        demand_nowhere((policy > 0) & ~legal, name, "probability 0 for illegal actions")
    return policy


def checked_start(start: Tensor | None, own: Tensor, terminal: Tensor) -> Tensor:
    """Return ``start [s]`` in float64, the world's ``own`` where it is None.

    Raises ``WorldError`` where it is no distribution over states that are not ``terminal [s]``.
    """
    if start is None:
        return own
    demand(start.shape == own.shape, "start", f"shape {list(own.shape)}", start)
    demand_distribution(start, "start", terminal)
    return start.to(torch.float64)
