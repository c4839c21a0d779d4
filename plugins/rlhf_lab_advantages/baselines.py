"""Rewards-to-go minus a baseline: the same expected gradient, less variance.

A baseline may depend on anything but the action that it judges. Those made from the batch therefore leave the own
episode out; this is exact when every episode is collected to its end (in a window of fixed length, how much of the
other episodes of the row is seen depends on the own one).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.types import Advantages, Trajectories, clean
from rlhf_lab_advantages.layout import by_run, episode_labels, given
from rlhf_lab_advantages.returns import RewardToGo

__all__ = ["ConstantBaseline", "LeaveOneOutBaseline", "OptimalBaseline", "RunningMeanBaseline", "ValueBaseline"]


class ConstantBaseline(RewardToGo):
    """The reward-to-go minus a constant.

    Aₜ = Gₜ − b; returns = G. The variance of the gradient is quadratic in b.

    Source: Williams 1992.
    """

    name = "constant_baseline"
    reference = "Williams 1992"
    claims = frozenset(
        {
            "baseline-ignores-own-episode",
            "baseline-is-its-parameter",
            "future-only",
            "returns-obey-bellman",
            "unbiased-gradient",
        }
    )
    implements = "constant_baseline"

    baseline: float = Field(default=0.0, description="the constant b")

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        return Advantages(clean(returns - self.baseline, batch.valid), returns)


class LeaveOneOutBaseline(RewardToGo):
    """The reward-to-go minus the mean reward-to-go over all steps of the other episodes of the run.

    Aₜ = Gₜ − Σ_{e≠own} Σ_{u∈e} G_u / Σ_{e≠own} |e|; one episode alone has baseline 0. returns = G.

    Source: Kool, van Hoof and Welling 2019, for steps in place of whole samples.
    """

    name = "loo_baseline"
    reference = "Kool et al. 2019"
    claims = frozenset(
        {
            "baseline-averages-other-episodes",
            "baseline-ignores-own-episode",
            "linear-in-rewards-and-values",
            "returns-obey-bellman",
            "unbiased-gradient",
        }
    )
    implements = "loo_baseline"
    scope = "batch"

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        baseline = _mean_of_others(batch, returns, torch.ones_like(returns))
        return Advantages(clean(returns - baseline, batch.valid), returns)


class OptimalBaseline(RewardToGo):
    """The reward-to-go minus the constant of least gradient variance, estimated from the other episodes of the run.

    Aₜ = Gₜ − Σ_{e≠own} Σ_{u∈e} ‖g_u‖²·G_u / Σ_{e≠own} Σ_{u∈e} ‖g_u‖², where g = ∇ log π(a|s) and ``score_norms``
    holds ‖g‖². One episode alone, and others without any gradient, give baseline 0. returns = G. Greensmith et al.
    estimate one baseline from all episodes, the own one included.

    Source: Greensmith, Bartlett and Baxter 2004, section 4; Weaver and Tao 2001.
    """

    name = "optimal_baseline"
    reference = "Greensmith et al. 2004"
    claims = frozenset(
        {
            "baseline-averages-other-episodes",
            "baseline-ignores-own-episode",
            "linear-in-rewards-and-values",
            "returns-obey-bellman",
            "unbiased-gradient",
        }
    )
    implements = "optimal_baseline"
    requires = frozenset({"score_norms"})
    scope = "batch"

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        baseline = _mean_of_others(batch, returns, given(batch, "score_norms"))
        return Advantages(clean(returns - baseline, batch.valid), returns)


class RunningMeanBaseline(RewardToGo):
    """The reward-to-go minus a number per row that the trainer keeps: the running mean of the scores seen so far.

    Aₜ = Gₜ − ``baseline_scores`` of the row; returns = G.

    Source: Sutton and Barto 2018, section 2.8 (whose mean includes the current reward).
    """

    name = "running_mean_baseline"
    reference = "Sutton and Barto 2018, section 2.8"
    claims = frozenset(
        {
            "baseline-ignores-own-episode",
            "baseline-is-the-rows-score",
            "future-only",
            "linear-in-rewards-and-values",
            "returns-obey-bellman",
            "unbiased-gradient",
        }
    )
    implements = "running_mean_baseline"
    requires = frozenset({"baseline_scores"})

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        return Advantages(clean(returns - given(batch, "baseline_scores")[..., None], batch.valid), returns)


class ValueBaseline(RewardToGo):
    """The reward-to-go minus the critic's value of the state.

    Aₜ = Gₜ − V(sₜ); returns = G. With ``bootstrap`` this is GAE at λ = 1. Any V leaves the expected gradient as it
    is where episodes are complete; A estimates the advantage only as well as V does the value.

    Source: Sutton and Barto 2018, section 13.4.
    """

    name = "value_baseline"
    reference = "Sutton and Barto 2018, section 13.4"
    claims = frozenset(
        {
            "baseline-ignores-own-episode",
            "baseline-is-the-value",
            "future-only",
            "linear-in-rewards-and-values",
            "perfect-critic-gives-zero",
            "returns-are-advantages-plus-values",
            "returns-obey-bellman",
            "shaping-invariant",
            "unbiased-advantages",
            "unbiased-gradient",
        }
    )
    implements = "value_baseline"
    requires = frozenset({"values"})

    def __call__(self, batch: Trajectories) -> Advantages:
        returns = self.rewards_to_go(batch)
        return Advantages(clean(returns - given(batch, "values"), batch.valid), returns)


def _mean_of_others(batch: Trajectories, x: Tensor, weights: Tensor) -> Tensor:
    """Return for each step the weighted mean of ``x [*b,t]`` over the other episodes of its run, 0 if they weigh 0.

    The sums before and after an episode are added. Taking its own from the total would leave its rounding errors
    behind.
    """
    labels, episodes = episode_labels(batch)

    def over_others(steps: Tensor) -> Tensor:
        own = steps.new_zeros(len(labels), episodes).scatter_add_(1, labels, steps)
        nothing = own.new_zeros(len(own), 1)
        before = torch.cat([nothing, own[:, :-1]], dim=1).cumsum(1)
        after = torch.cat([own[:, 1:], nothing], dim=1).flip(1).cumsum(1).flip(1)
        return (before + after).gather(1, labels)

    weight = by_run(clean(weights, batch.valid)).double()
    total = over_others(weight)
    mean = over_others(weight * by_run(x)) / torch.where(total > 0, total, 1)
    return mean.to(x.dtype).view_as(x)
