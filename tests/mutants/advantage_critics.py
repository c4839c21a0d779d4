"""Broken estimators with a critic. Codes are those of the list of real bugs."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from pydantic import Field
from torch import Tensor

from mutants.advantage_entry import mutant, shifted
from mutants.advantage_loops import LoopGAE, LoopNStep, cleaned
from rlhf_lab.types import Advantages, Trajectories, clean


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
        s.next_values = torch.where(
            inside & (torch.arange(s.steps) < s.steps - 1), shifted(s.values, 0.0), s.next_values
        )
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
