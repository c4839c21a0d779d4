"""Broken rewards-to-go and baselines, and broken V-trace."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from mutants.advantage_entry import mutant
from mutants.advantage_loops import LoopMonteCarlo, LoopVTrace
from rlhf_lab.types import Advantages, clean


@mutant("A19", "monte_carlo")
class WholeReturn(LoopMonteCarlo):
    name = "whole_return"

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        found = returns.clone()
        begins = torch.ones_like(s.valid[..., 0])
        total = torch.zeros_like(found[..., 0])
        for t in range(s.steps):
            on = s.valid[..., t]
            total = torch.where(begins & on, returns[..., t], total)
            found[..., t] = torch.where(on, total, 0)
            begins = torch.where(on, s.term[..., t] | s.trunc[..., t], begins)
        return Advantages(found, found)


@mutant("rewards of the next episode", "monte_carlo")
class CrossesTruncation(LoopMonteCarlo):
    name = "crosses_truncation"

    def cut(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.term[..., t]


@mutant("undiscounted", "monte_carlo")
class Undiscounted(LoopMonteCarlo):
    name = "undiscounted"

    def step(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return s.rewards[..., t] + carry


@mutant("own reward discounted too", "monte_carlo")
class OwnRewardDiscounted(LoopMonteCarlo):
    name = "own_reward_discounted"

    def step(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return self.gamma * (s.rewards[..., t] + carry)


@mutant("bootstraps where terminated", "monte_carlo")
class BootstrapsTermination(LoopMonteCarlo):
    name = "bootstraps_termination"

    def first(self, s: SimpleNamespace, t: int, seen: Tensor) -> Tensor:
        after = s.next_values[..., t] if self.bootstrap else torch.zeros_like(s.rewards[..., t])
        return self.gamma * after


@mutant("bootstrap undiscounted", "monte_carlo")
class BootstrapUndiscounted(LoopMonteCarlo):
    name = "bootstrap_undiscounted"

    def first(self, s: SimpleNamespace, t: int, seen: Tensor) -> Tensor:
        after = s.next_values[..., t] if self.bootstrap else torch.zeros_like(s.rewards[..., t])
        return after.masked_fill(s.term[..., t], 0)


@mutant("bootstraps without being asked", "value_baseline")
class AlwaysBootstraps(LoopMonteCarlo):
    name = "always_bootstraps"
    requires = frozenset({"values", "next_values"})

    def first(self, s: SimpleNamespace, t: int, seen: Tensor) -> Tensor:
        return self.gamma * s.next_values[..., t].masked_fill(s.term[..., t], 0)

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(torch.where(s.valid, returns - s.values, 0), returns)


@mutant("baseline of the next state", "value_baseline")
class NextStatesBaseline(LoopMonteCarlo):
    name = "next_states_baseline"
    requires = frozenset({"values", "next_values"})

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(torch.where(s.valid, returns - s.next_values.masked_fill(s.term, 0), 0), returns)


@mutant("value as target of itself", "value_baseline")
class ValueAsTarget(LoopMonteCarlo):
    name = "value_as_target"
    requires = frozenset({"values"})

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(torch.where(s.valid, returns - s.values, 0), s.values)


@mutant("whole return shown as rewards-to-go", "total_return")
class ToGo(LoopMonteCarlo):
    name = "to_go"


@mutant("discount counted from the start", "total_return")
class DiscountFromStart(LoopMonteCarlo):
    """Σ_k γᵏ r_k for every step, its targets as well."""

    name = "discount_from_start"

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        whole = WholeReturn(gamma=self.gamma, bootstrap=self.bootstrap).answer(s, returns).advantages
        return Advantages(whole, whole)


@mutant("baseline added", "constant_baseline")
class BaselineAdded(LoopMonteCarlo):
    name = "baseline_added"
    baseline: float = 0.0

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(torch.where(s.valid, returns + self.baseline, 0), returns)


@mutant("baseline in the target too", "constant_baseline")
class BaselineInTarget(LoopMonteCarlo):
    name = "baseline_in_target"
    baseline: float = 0.0

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        less = torch.where(s.valid, returns - self.baseline, 0)
        return Advantages(less, less)


@mutant("baseline at padding", "constant_baseline")
class BaselineAtPadding(LoopMonteCarlo):
    name = "baseline_at_padding"
    baseline: float = 0.0

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(returns - self.baseline, returns)


@mutant("mean of the batch for the row's score", "running_mean_baseline")
class MeanScore(LoopMonteCarlo):
    name = "mean_score"
    requires = frozenset({"baseline_scores"})

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        scores = s.raw.baseline_scores.mean() if s.raw.baseline_scores.numel() else 0.0
        return Advantages(torch.where(s.valid, returns - scores, 0), returns)


@mutant("score as reward", "running_mean_baseline")
class ScoreTwice(LoopMonteCarlo):
    name = "score_twice"
    requires = frozenset({"baseline_scores"})

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(torch.where(s.valid, returns - 2 * s.raw.baseline_scores[..., None], 0), returns)


def _mean_of_others(s: SimpleNamespace, returns: Tensor, weights: Tensor, own: bool) -> Tensor:
    """Return the weighted mean return over other episodes, or over all of them with ``own``, of one run."""
    ends = (s.term | s.trunc).long()
    within = ends.cumsum(-1) - ends
    labels = within + (torch.arange(len(within)) * (within.shape[-1] + 1))[:, None]
    found = torch.zeros_like(returns)
    for label in labels[s.valid].unique():
        others = s.valid if own else s.valid & (labels != label)
        total = weights[others].sum()
        found[labels == label] = (weights * returns)[others].sum() / total if total > 0 else 0.0
    return found


class _Others(LoopMonteCarlo):
    scope = "batch"
    own: bool = False

    def weights(self, s: SimpleNamespace) -> Tensor:
        return torch.ones_like(s.rewards)

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        away = _mean_of_others(s, returns, self.weights(s), own=True)
        return Advantages(torch.where(s.valid, returns - away, 0), returns)


@mutant("N01", "loo_baseline")
class OwnEpisodeIncluded(_Others):
    name = "own_episode_included"


@mutant("weights forgotten", "optimal_baseline")
class WeightsForgotten(_Others):
    name = "weights_forgotten"
    requires = frozenset({"score_norms"})

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        away = _mean_of_others(s, returns, torch.ones_like(returns), own=False)
        return Advantages(torch.where(s.valid, returns - away, 0), returns)


@mutant("own episode in the optimal baseline", "optimal_baseline")
class OptimalWithOwn(_Others):
    name = "optimal_with_own"
    requires = frozenset({"score_norms"})

    def weights(self, s: SimpleNamespace) -> Tensor:
        return clean(s.raw.score_norms, s.valid)


@mutant("A16", "v_trace")
class NextTrajectorysTarget(LoopVTrace):
    name = "next_trajectorys_target"

    def next_target(self, s: SimpleNamespace, t: int, last: Tensor, following: Tensor) -> Tensor:
        later = s.valid[..., t + 1 :].any(-1)
        return torch.where(later, following, self.behind(s, t)).masked_fill(s.term[..., t], 0)


@mutant("ratio upside down", "v_trace")
class RatioInverted(LoopVTrace):
    name = "ratio_inverted"

    def ratio(self, s: SimpleNamespace, t: int) -> Tensor:
        return (s.log_probs[..., t] - s.target_log_probs[..., t]).exp()


@mutant("rho not capped", "v_trace")
class RhoUncapped(LoopVTrace):
    name = "rho_uncapped"

    def rho(self, ratio: Tensor) -> Tensor:
        return ratio


@mutant("trace not capped", "v_trace")
class TraceUncapped(LoopVTrace):
    name = "trace_uncapped"

    def c(self, ratio: Tensor) -> Tensor:
        return self.lam * ratio


@mutant("trace without lambda", "v_trace")
class TraceWithoutLambda(LoopVTrace):
    name = "trace_without_lambda"

    def c(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=self.c_bar)


@mutant("caps swapped", "v_trace")
class CapsSwapped(LoopVTrace):
    name = "caps_swapped"

    def rho(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=self.c_bar)

    def c(self, ratio: Tensor) -> Tensor:
        return self.lam * ratio.clamp(max=self.rho_bar)


@mutant("weight missing in the advantage", "v_trace")
class AdvantageUnweighted(LoopVTrace):
    name = "advantage_unweighted"

    def advantage(self, s: SimpleNamespace, t: int, rho: Tensor, following: Tensor) -> Tensor:
        return s.rewards[..., t] + self.gamma * following - s.values[..., t]


@mutant("advantage from the critic, not from the next target", "v_trace")
class CriticsNextValue(LoopVTrace):
    name = "critics_next_value"

    def next_target(self, s: SimpleNamespace, t: int, last: Tensor, following: Tensor) -> Tensor:
        return self.behind(s, t)
