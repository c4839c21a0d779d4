"""Advantages made with a critic: how far to trust rewards, and from where on its values.

With the temporal-difference error δₜ = rₜ + γ·V(s_{t+1}) − V(sₜ), all of these are sums of future errors.
V(s_{t+1}) is 0 after a termination and ``next_values`` after a truncation or at a live edge; no sum reaches past
the end of an episode. ``returns`` = advantages + values is the critic's target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from pydantic import Field

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages.backends import BACKENDS, scans

__all__ = ["GAE", "NStep", "TDLambda", "TemporalDifference"]


class _WithCritic(AdvantageEstimator):
    requires = frozenset({"values", "next_values"})
    stacked = True

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")

    @classmethod
    def implementations(cls) -> Mapping[str, Callable[[], AbstractContextManager[None]]]:
        return BACKENDS


class TemporalDifference(_WithCritic):
    """The one-step error of the critic: one real reward, and its own value for the rest.

    Aₜ = δₜ = rₜ + γ·V(s_{t+1}) − V(sₜ).

    Source: Sutton and Barto 2018, eq. 6.5.
    """

    name = "td"
    reference = "Sutton and Barto 2018, eq. 6.5"
    claims = frozenset(
        {
            "future-only",
            "linear-in-rewards-and-values",
            "one-step-error",
            "perfect-critic-gives-zero",
            "returns-are-advantages-plus-values",
            "shaping-invariant",
            "unbiased-advantages",
        }
    )
    implements = "td"

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(*scans(batch).gae(batch, self.gamma, 0.0))


class NStep(_WithCritic):
    """n real rewards, then the critic.

    Aₜ = Σ_{i<m} γⁱ·r_{t+i} + γᵐ·V(s_{t+m}) − V(sₜ), with m = min(n, valid steps left in the episode).

    Source: Sutton and Barto 2018, eq. 7.1; Schulman et al. 2016, eq. 11 to 15.
    """

    name = "n_step"
    reference = "Sutton and Barto 2018, eq. 7.1"
    claims = frozenset(
        {
            "future-only",
            "linear-in-rewards-and-values",
            "n-large-is-monte-carlo",
            "n-one-is-td",
            "n-step-telescopes",
            "perfect-critic-gives-zero",
            "returns-are-advantages-plus-values",
            "shaping-invariant",
            "unbiased-advantages",
            "unbiased-gradient",
        }
    )
    implements = "n_step"

    n: int = Field(default=5, ge=1, description="real rewards before the critic is asked")

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(*scans(batch).n_step(batch, self.gamma, self.n))


class GAE(_WithCritic):
    """Generalised advantage estimation: the λ-weighted mean of the n-step advantages of all n.

    Aₜ = δₜ + γλ·A_{t+1} = Σ_l (γλ)ˡ·δ_{t+l}, over the valid steps of the episode. With N steps left this is
    (1−λ)·Σ_{n<N} λ^{n−1}·A⁽ⁿ⁾ + λ^{N−1}·A⁽ᴺ⁾: the last one takes the weight that the paper's infinite sum spreads
    beyond N.

    Source: Schulman et al. 2016, eq. 16.
    """

    name = "gae"
    reference = "Schulman et al. 2016, eq. 16"
    claims = frozenset(
        {
            "future-only",
            "lambda-mixes-n-step",
            "lambda-one-is-monte-carlo",
            "lambda-zero-is-td",
            "linear-in-rewards-and-values",
            "perfect-critic-gives-zero",
            "returns-are-advantages-plus-values",
            "shaping-invariant",
            "unbiased-advantages",
            "unbiased-gradient",
        }
    )
    implements = "gae"

    lam: float = Field(default=0.95, ge=0, le=1, description="weight of longer returns")

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(*scans(batch).gae(batch, self.gamma, self.lam))


class TDLambda(GAE):
    """The λ-return as the critic's target, and its distance from the critic as advantage.

    Gₜ = rₜ + γ·[(1−λ)·V(s_{t+1}) + λ·G_{t+1}]; returns = G, advantages = G − V(sₜ), which equals GAE(λ) identically
    and is computed as such.

    Source: Sutton and Barto 2018, eq. 12.2 and 12.3.
    """

    name = "td_lambda"
    reference = "Sutton and Barto 2018, eq. 12.3"
    implements = "td_lambda"
