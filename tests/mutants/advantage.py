"""Broken advantage estimators. Codes are those of the list of real bugs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import torch
from mutants.advantage_loops import GroupLoop, LoopGAE, LoopMonteCarlo, LoopNStep, LoopVTrace, cleaned
from mutants.mutant import Mutant
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories, clean

__all__ = ["CONTROLS", "MUTANTS"]

MUTANTS: Final[list[Mutant]] = []
CONTROLS: Final[list[type[AdvantageEstimator]]] = []


def mutant(bug: str, imitates: str) -> Callable[[type[AdvantageEstimator]], type[AdvantageEstimator]]:
    """Enter the class below as a mutant; its component name is its own, in snake case."""

    def enter(cls: type[AdvantageEstimator]) -> type[AdvantageEstimator]:
        MUTANTS.append(Mutant(bug, cls, imitates))
        return cls

    return enter


def shifted(x: Tensor, fill: float | bool) -> Tensor:
    """Return x one step earlier: what stands at t + 1."""
    return torch.cat([x[..., 1:], torch.full_like(x[..., :1], fill)], dim=-1)


# ---- gae and its relatives


@mutant("A01", "gae")
class DoneShifted(LoopGAE):
    name = "done_shifted"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        s.term, s.trunc = shifted(s.term, False), shifted(s.trunc, False)
        return s


@mutant("A02", "gae")
class CarryNotCut(LoopGAE):
    name = "carry_not_cut"

    def cut(self, s: SimpleNamespace, t: int) -> Tensor:
        return torch.zeros_like(s.term[..., t])


@mutant("A05", "gae")
class BootstrapTwice(LoopGAE):
    name = "bootstrap_twice"

    def start(self, s: SimpleNamespace) -> Tensor:
        return s.next_values[..., -1]


@mutant("A06", "gae")
class TruncationTerminates(LoopGAE):
    name = "truncation_terminates"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t].masked_fill(s.term[..., t] | s.trunc[..., t], 0)


@mutant("A07", "gae")
class TruncationCrossed(LoopGAE):
    name = "truncation_crossed"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        s.next_values = torch.cat([s.values[..., 1:], s.next_values[..., -1:]], dim=-1)
        return s

    def cut(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.term[..., t]


@mutant("A08", "gae")
class OwnValueAtTruncation(LoopGAE):
    name = "own_value_at_truncation"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        after = torch.where(s.trunc[..., t], s.values[..., t], s.next_values[..., t])
        return after.masked_fill(s.term[..., t], 0)


@mutant("A10", "gae")
class BaselineMasked(LoopGAE):
    name = "baseline_masked"

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        rest = self.gamma * s.next_values[..., t] - s.values[..., t]
        return s.rewards[..., t] + rest.masked_fill(s.term[..., t], 0)


@mutant("A12", "gae")
class StaleReturns(LoopGAE):
    name = "stale_returns"

    def returns(self, s: SimpleNamespace, advantages: Tensor) -> Tensor:
        return s.values


@mutant("A14", "gae")
class ValueBeforeEndLost(LoopGAE):
    name = "value_before_end_lost"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        after = super().behind(s, t)
        return after.masked_fill(s.term[..., t + 1], 0) if t + 1 < s.steps else after


@mutant("bootstraps at termination", "gae")
class BootstrapsAlways(LoopGAE):
    name = "bootstraps_always"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t]


@mutant("live edge without bootstrap", "gae")
class LiveEdgeTerminates(LoopGAE):
    name = "live_edge_terminates"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        after = super().behind(s, t)
        later = s.valid[..., t + 1 :].any(-1)
        return torch.where(later | s.trunc[..., t], after, 0)


@mutant("truncation wins over termination", "gae")
class TruncationWins(LoopGAE):
    name = "truncation_wins"

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t].masked_fill(s.term[..., t] & ~s.trunc[..., t], 0)


@mutant("E05", "gae")
class TruncationNeverSeen(LoopGAE):
    """The flag is read from the wrong place and is always False."""

    name = "truncation_never_seen"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        s.trunc = torch.zeros_like(s.trunc)
        return s


@mutant("carry without gamma", "gae")
class CarryWithoutGamma(LoopGAE):
    name = "carry_without_gamma"

    def decay(self) -> float:
        return self.lam


@mutant("carry without lambda", "gae")
class CarryWithoutLambda(LoopGAE):
    name = "carry_without_lambda"

    def decay(self) -> float:
        return self.gamma


@mutant("gamma squared in the carry", "gae")
class GammaTwice(LoopGAE):
    name = "gamma_twice"

    def decay(self) -> float:
        return self.gamma**2 * self.lam


@mutant("next value undiscounted", "td_lambda")
class NextValueUndiscounted(LoopGAE):
    name = "next_value_undiscounted"

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.rewards[..., t] + self.behind(s, t) - s.values[..., t]


@mutant("target is the next value plus the advantage", "td_lambda")
class TargetFromNextValue(LoopGAE):
    name = "target_from_next_value"

    def returns(self, s: SimpleNamespace, advantages: Tensor) -> Tensor:
        return advantages + s.next_values


@mutant("advantage left in the target's place", "td_lambda")
class TargetWithoutValue(LoopGAE):
    name = "target_without_value"

    def returns(self, s: SimpleNamespace, advantages: Tensor) -> Tensor:
        return advantages


@mutant("T01", "gae")
class PadsNotCleaned(LoopGAE):
    name = "pads_not_cleaned"

    def __call__(self, batch: Trajectories) -> Advantages:
        everywhere = torch.ones_like(batch.valid)
        raw = Trajectories(
            batch.rewards.masked_fill(~batch.valid, 0),
            batch.terminated,
            batch.truncated,
            everywhere,
            batch.values.nan_to_num(),
            shifted(batch.values.nan_to_num(), 0.0),
        )
        found = super().__call__(raw)
        return Advantages(clean(found.advantages, batch.valid), found.returns)


@mutant("T02", "gae")
class ScoreOneStepEarly(LoopGAE):
    name = "score_one_step_early"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        early = shifted(s.rewards, 0.0)
        s.rewards = torch.where(shifted(s.valid, False) & s.valid, early, torch.where(s.valid, 0.0, 0.0))
        return s


@mutant("T04", "gae")
class CarryLostAtObservations(LoopGAE):
    name = "carry_lost_at_observations"

    def skip(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return torch.zeros_like(carry)


@mutant("carry decays at observations", "gae")
class CarryDecaysAtObservations(LoopGAE):
    name = "carry_decays_at_observations"

    def skip(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return self.decay() * carry


@mutant("next value taken from the next column", "gae")
class NextColumn(LoopGAE):
    name = "next_column"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        inside = ~(s.term | s.trunc)
        s.next_values = torch.where(inside & (torch.arange(s.steps) < s.steps - 1), shifted(s.values, 0.0), s.next_values)
        return s


@mutant("weights of the infinite mixture cut off", "gae")
class MixtureCutOff(LoopNStep):
    """(1-λ) Σ λ^{n-1} A(n) without the rest of the weight on the last one."""

    name = "mixture_cut_off"
    n: int = Field(default=1, ge=1, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)

    def __call__(self, batch: Trajectories) -> Advantages:
        total = torch.zeros_like(batch.rewards)
        for n in range(1, batch.rewards.shape[-1] + 1):
            part = LoopNStep(gamma=self.gamma, n=n)(batch).advantages
            total = total + (1 - self.lam) * self.lam ** (n - 1) * part
        return Advantages(total, torch.where(batch.valid, total + clean(batch.values, batch.valid), 0))


@mutant("errors summed over the past", "gae")
class PastErrors(LoopGAE):
    name = "past_errors"

    def __call__(self, batch: Trajectories) -> Advantages:
        s, found = cleaned(batch), torch.zeros_like(batch.rewards)
        carry = found[..., 0].clone() if s.steps else None
        for t in range(s.steps):
            new = self.delta(s, t) + self.decay() * carry
            found[..., t] = torch.where(s.valid[..., t], new, 0)
            ended = s.term[..., t] | s.trunc[..., t]
            carry = torch.where(s.valid[..., t], new.masked_fill(ended, 0), carry)
        return Advantages(found, torch.where(s.valid, found + s.values, 0))


@mutant("rows share one carry", "gae")
class RowsShareCarry(LoopGAE):
    name = "rows_share_carry"

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        own = super().delta(s, t)
        return own - 0.5 * (own.roll(1, 0) - own) if own.ndim and len(own) > 1 else own


@mutant("normalised inside", "gae")
class NormalisedInside(LoopGAE):
    name = "normalised_inside"

    def __call__(self, batch: Trajectories) -> Advantages:
        raw = super().__call__(batch)
        x = raw.advantages[batch.valid]
        if len(x) < 2:
            return raw
        whitened = (raw.advantages - x.mean()) / (x.std() + 1e-8)
        return Advantages(clean(whitened, batch.valid), raw.returns)


@mutant("advantage of the opposite sign", "td")
class Negated(LoopGAE):
    name = "negated"
    lam: float = Field(default=0.0, ge=0, le=0)

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        return -super().delta(s, t)


@mutant("one-step error without the discount", "td")
class UndiscountedError(LoopGAE):
    name = "undiscounted_error"
    lam: float = Field(default=0.0, ge=0, le=0)

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.rewards[..., t] + self.behind(s, t) - s.values[..., t]


@mutant("one-step error without the value", "td")
class TargetAsAdvantage(LoopGAE):
    name = "target_as_advantage"
    lam: float = Field(default=0.0, ge=0, le=0)

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.rewards[..., t] + self.gamma * self.behind(s, t)


# ---- n-step


@mutant("A17", "n_step")
class BootstrapDiscountedOnce(LoopNStep):
    name = "bootstrap_discounted_once"

    def weight(self, count: int) -> float:
        return self.gamma


@mutant("one reward too many", "n_step")
class OneTooMany(LoopNStep):
    name = "one_too_many"

    def horizon(self) -> int:
        return self.n + 1


@mutant("one reward too few", "n_step")
class OneTooFew(LoopNStep):
    name = "one_too_few"

    def horizon(self) -> int:
        return max(1, self.n - 1)


@mutant("bootstrap discounted by n where the episode was shorter", "n_step")
class FixedPower(LoopNStep):
    name = "fixed_power"

    def weight(self, count: int) -> float:
        return self.gamma**self.n


@mutant("rewards undiscounted", "n_step")
class RewardsUndiscounted(LoopNStep):
    name = "rewards_undiscounted"

    def discount(self, count: int) -> float:
        return 1.0


@mutant("A07", "n_step")
class WindowCrossesTruncation(LoopNStep):
    name = "window_crosses_truncation"

    def stops(self, s: SimpleNamespace, row: int, t: int) -> bool:
        return bool(s.term[row, t])


# ---- returns


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


# ---- v-trace


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


# ---- groups


@mutant("N01", "rloo")
class OwnScoreIncluded(GroupLoop):
    name = "own_score_included"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.mean())


@mutant("N02", "rloo")
class ContiguousGroups(GroupLoop):
    name = "contiguous_groups"

    def same(self, ids: Tensor, row: int) -> Tensor:
        size = max(1, len(ids) // max(1, len(ids.unique())))
        block = torch.arange(len(ids)) // size
        return block == block[row]


@mutant("N04", "rloo")
class WholeBatchBaseline(GroupLoop):
    name = "whole_batch_baseline"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - (everyone.sum() - own) / (len(everyone) - 1)) if len(everyone) > 1 else 0.0


@mutant("one response keeps its raw score", "rloo")
class AloneKeepsScore(GroupLoop):
    name = "alone_keeps_score"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return super().compare(own, group, everyone) if len(group) > 1 else own


@mutant("score is a mean over steps", "rloo")
class MeanReward(GroupLoop):
    name = "mean_reward"

    def score(self, rewards: Tensor, valid: Tensor) -> Tensor:
        return clean(rewards, valid).sum(-1) / valid.sum(-1).clamp(min=1)


@mutant("advantage on the last step only", "rloo")
class LastStepOnly(GroupLoop):
    name = "last_step_only"

    def place(self, advantages: Tensor, valid: Tensor) -> Tensor:
        last = valid & (valid.flip(-1).cumsum(-1).flip(-1) == 1)
        return clean(advantages[:, None].expand(valid.shape), last)


@mutant("padding counted into the score", "grpo_mean")
class PaddingInScore(GroupLoop):
    name = "padding_in_score"

    def score(self, rewards: Tensor, valid: Tensor) -> Tensor:
        return rewards.nan_to_num().sum(-1)

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.mean())


@mutant("median for the mean", "grpo_mean")
class MedianBaseline(GroupLoop):
    name = "median_baseline"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.median())


@mutant("own score left out of the group's mean", "grpo_mean")
class OwnScoreLeftOut(GroupLoop):
    name = "own_score_left_out"


class _Standardised(GroupLoop):
    ddof: int = Field(default=1, ge=0, le=1)
    eps: float = Field(default=1e-4, ge=0)

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.std(correction=self.ddof)

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        return float((own - group.mean()) / (self.deviation(group, everyone) + self.eps))


@mutant("N04", "grpo")
class BatchDeviation(_Standardised):
    name = "batch_deviation"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return everyone.std(correction=self.ddof)


@mutant("N07", "grpo")
class NanAlone(_Standardised):
    name = "nan_alone"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float((own - group.mean()) / (self.deviation(group, everyone) + self.eps))


@mutant("ddof ignored", "grpo")
class PopulationDeviation(_Standardised):
    name = "population_deviation"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.std(correction=0)


@mutant("eps under the root", "grpo")
class EpsUnderRoot(_Standardised):
    name = "eps_under_root"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        return float((own - group.mean()) / (self.deviation(group, everyone).square() + self.eps).sqrt())


@mutant("variance for deviation", "grpo")
class DividesByVariance(_Standardised):
    name = "divides_by_variance"

    def deviation(self, group: Tensor, everyone: Tensor) -> Tensor:
        return group.var(correction=self.ddof)


@mutant("leave-one-out mean with the deviation", "grpo")
class LeaveOneOutStandardised(_Standardised):
    name = "leave_one_out_standardised"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        if bool((group == group[0]).all()):
            return 0.0
        others = (group.sum() - own) / (len(group) - 1)
        return float((own - others) / (self.deviation(group, everyone) + self.eps))


# ---- broken contracts


@mutant("changes its input in place", "td")
class ChangesInput(LoopGAE):
    name = "changes_input"
    lam: float = Field(default=0.0, ge=0, le=0)

    def __call__(self, batch: Trajectories) -> Advantages:
        batch.rewards.mul_(batch.valid)
        return super().__call__(batch)


@mutant("global randomness", "td")
class Dithers(LoopGAE):
    name = "dithers"
    lam: float = Field(default=0.0, ge=0, le=0)

    def __call__(self, batch: Trajectories) -> Advantages:
        found = super().__call__(batch)
        return Advantages(found.advantages + 0 * torch.rand(1, dtype=found.advantages.dtype), found.returns)


_SEEN: list[float] = []


@mutant("state between calls", "td")
class Remembers(LoopGAE):
    name = "remembers"
    lam: float = Field(default=0.0, ge=0, le=0)

    def __call__(self, batch: Trajectories) -> Advantages:
        _SEEN.append(float(clean(batch.rewards, batch.valid).sum()))
        found = super().__call__(batch)
        return Advantages(clean(found.advantages + 1e-3 * len(_SEEN), batch.valid), found.returns)


@mutant("float32 inside", "gae")
class SinglePrecision(LoopGAE):
    name = "single_precision"

    def __call__(self, batch: Trajectories) -> Advantages:
        found = super().__call__(batch)
        return Advantages(found.advantages.float(), found.returns.float())


@mutant("half precision inside", "gae")
class HalfPrecision(LoopGAE):
    name = "half_precision"

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        found = super().delta(s, t)
        return 3 * (found / 3).half().to(found.dtype) if found.dtype == torch.float32 else found


@mutant("another target than the advantage", "monte_carlo")
class TargetHalved(LoopMonteCarlo):
    name = "target_halved"

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(returns / 2, returns)


@mutant("runs mixed", "grpo_mean")
class RunsMixed(GroupLoop):
    """Says that it takes several runs, and compares responses across them."""

    name = "runs_mixed"
    stacked = True

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - group.mean())


@mutant("option accepted and ignored", "gae")
class LambdaIgnored(LoopGAE):
    name = "lambda_ignored"

    def decay(self) -> float:
        return 0.95 * self.gamma


@mutant("requires what it does not read", "td")
class NextValuesIgnored(LoopGAE):
    name = "next_values_ignored"
    lam: float = Field(default=0.0, ge=0, le=0)

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        s.next_values = shifted(s.values, 0.0)
        return s


@mutant("one backend differs", "gae")
class BackendsDiffer(LoopGAE):
    name = "backends_differ"

    @classmethod
    def implementations(cls) -> Any:
        from rlhf_lab_advantages.backends import BACKENDS

        return BACKENDS

    def decay(self) -> float:
        from rlhf_lab_advantages.backends import _forced

        return 0.9 * super().decay() if _forced.get() == "torch" else super().decay()


# ---- right ones in another form


def control(cls: type[AdvantageEstimator]) -> type[AdvantageEstimator]:
    """Enter the class below as a right component."""
    CONTROLS.append(cls)
    return cls


@control
class PlainGAE(LoopGAE):
    name = "plain_gae"
    implements = "gae"


@control
class PlainMonteCarlo(LoopMonteCarlo):
    name = "plain_monte_carlo"
    implements = "monte_carlo"


@control
class PlainNStep(LoopNStep):
    name = "plain_n_step"
    implements = "n_step"


@control
class PlainVTrace(LoopVTrace):
    name = "plain_v_trace"
    implements = "v_trace"


@control
class PlainRLOO(GroupLoop):
    name = "plain_rloo"
    implements = "rloo"


@control
class ScaledMean(GroupLoop):
    """k/(k-1) (s - mean) is leave-one-out."""

    name = "scaled_mean"
    implements = "rloo"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float((own - group.mean()) * len(group) / (len(group) - 1)) if len(group) > 1 else 0.0


@control
class PlainGRPO(_Standardised):
    name = "plain_grpo"
    implements = "grpo"


@control
class FoldedTruncation(LoopGAE):
    """Rewards plus γ V(final observation), and then truncation treated as termination."""

    name = "folded_truncation"
    implements = "gae"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        cut = s.trunc & ~s.term
        s.rewards = s.rewards + self.gamma * s.next_values * cut
        s.term = s.term | cut
        return s


@control
class ZeroedNextValues(LoopGAE):
    """Next values zeroed beforehand instead of a factor (1 - done)."""

    name = "zeroed_next_values"
    implements = "gae"

    def read(self, batch: Trajectories) -> SimpleNamespace:
        s = cleaned(batch)
        s.next_values = s.next_values * ~s.term
        return s

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t]
