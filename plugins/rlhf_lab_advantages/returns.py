"""Advantages that are returns: the whole episode's for every step, or only what comes after the action."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages.backends import BACKENDS, scans
from rlhf_lab_advantages.layout import by_run, episode_labels

__all__ = ["MonteCarlo", "RewardToGo", "TotalReturn"]


class RewardToGo(AdvantageEstimator):
    """What estimators made from rewards-to-go share: the discount, and what follows an episode that was cut."""

    stacked = True

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    bootstrap: bool = Field(
        default=False, description="add the discounted next value at a truncation and at a live edge"
    )

    def needs(self) -> frozenset[str]:
        return type(self).requires | ({"next_values"} if self.bootstrap else frozenset())

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return BACKENDS

    def rewards_to_go(self, batch: Trajectories) -> Tensor:
        """Return G_t = Σ_k γᵏ·r_{t+k} to the end of the episode, ``[*b,t]``; 0 where not valid."""
        return scans(batch).reward_to_go(batch, self.gamma, self.bootstrap)


class MonteCarlo(RewardToGo):
    """The reward-to-go: only rewards after an action count for it.

    Aₜ = Gₜ = Σ_{k≥0} γᵏ·r_{t+k}, over the valid steps t..T−1 of the episode, plus γ^{T−t}·V(s_T) where the episode
    was cut and ``bootstrap`` is set. Without it a cut episode counts what it has earned so far. Advantages and
    returns are one tensor.

    The policy gradient of the discounted objective also weights step t by γᵗ, which is left out here, as is usual.

    Source: Williams 1992; Sutton and Barto 2018, section 13.3.
    """

    name = "monte_carlo"
    reference = "Sutton and Barto 2018, section 13.3"
    claims = frozenset(
        {
            "advantages-are-returns",
            "future-only",
            "linear-in-rewards-and-values",
            "returns-obey-bellman",
            "unbiased-gradient",
        }
    )
    implements = "monte_carlo"

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        return Advantages(returns, returns)


class TotalReturn(RewardToGo):
    """One number for every step of an episode: its whole return, also what was earned before the action.

    Aₜ = G₀ = Σ_{k=0}^{T−1} γᵏ·r_k, over the valid steps of the episode; ``returns`` are the rewards-to-go, which a
    critic should learn. The gradient it gives is unbiased for the discounted objective as it stands, only noisier.

    Source: Williams 1992, episodic REINFORCE.
    """

    name = "total_return"
    reference = "Williams 1992"
    claims = frozenset(
        {
            "linear-in-rewards-and-values",
            "one-number-per-episode",
            "returns-obey-bellman",
            "unbiased-discounted-gradient",
        }
    )
    implements = "total_return"

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        if returns.numel() == 0:
            return Advantages(returns, returns)  # no step, hence no first step of an episode to read
        flat, valid = by_run(returns), by_run(batch.valid)
        labels, episodes = episode_labels(batch)
        steps = torch.arange(flat.shape[1], device=flat.device).expand(flat.shape)
        first = torch.full((len(flat), episodes), flat.shape[1] - 1, device=flat.device)
        first.scatter_reduce_(1, labels, steps.masked_fill(~valid, flat.shape[1] - 1), "amin")
        totals = flat.gather(1, first).gather(1, labels) * valid
        return Advantages(totals.view_as(returns), returns)
