"""A right estimator of each family, written as a plain loop with seams, for mutants to break one seam each."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories, clean

__all__ = ["GroupLoop", "LoopGAE", "LoopMonteCarlo", "LoopNStep", "LoopVTrace", "cleaned"]


def cleaned(batch: Trajectories) -> SimpleNamespace:
    """Return the fields that loops read, 0 where not valid."""
    names = ("rewards", "values", "next_values", "log_probs", "target_log_probs")
    found = {n: clean(getattr(batch, n), batch.valid) for n in names if getattr(batch, n) is not None}
    return SimpleNamespace(
        **found,
        term=batch.terminated,
        trunc=batch.truncated,
        valid=batch.valid,
        steps=batch.rewards.shape[-1],
        raw=batch,
    )


class LoopGAE(AdvantageEstimator):
    """GAE, one step at a time from the back."""

    name = "loop_gae"
    requires = frozenset({"values", "next_values"})
    gamma: float = Field(default=0.99, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.rewards[..., t] + self.gamma * self.behind(s, t) - s.values[..., t]

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t].masked_fill(s.term[..., t], 0)

    def cut(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.term[..., t] | s.trunc[..., t]

    def decay(self) -> float:
        return self.gamma * self.lam

    def start(self, s: SimpleNamespace) -> Tensor:
        return torch.zeros_like(s.rewards[..., 0])

    def skip(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return carry

    def returns(self, s: SimpleNamespace, advantages: Tensor) -> Tensor:
        return advantages + s.values

    def read(self, batch: Trajectories) -> SimpleNamespace:
        return cleaned(batch)

    def __call__(self, batch: Trajectories) -> Advantages:
        s = self.read(batch)
        found = torch.zeros_like(batch.rewards)
        if s.steps == 0:
            return Advantages(found, found)
        carry = self.start(s)
        for t in reversed(range(s.steps)):
            new = self.delta(s, t) + self.decay() * carry.masked_fill(self.cut(s, t), 0)
            carry = torch.where(s.valid[..., t], new, self.skip(s, t, carry))
            found[..., t] = torch.where(s.valid[..., t], new, 0)
        return Advantages(found, torch.where(s.valid, self.returns(s, found), 0))


class LoopMonteCarlo(AdvantageEstimator):
    """The reward-to-go, from the back."""

    name = "loop_monte_carlo"
    gamma: float = Field(default=0.99, ge=0, le=1)
    bootstrap: bool = Field(default=False)

    def needs(self) -> frozenset[str]:
        return type(self).requires | (frozenset({"next_values"}) if self.bootstrap else frozenset())

    def cut(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.term[..., t] | s.trunc[..., t]

    def first(self, s: SimpleNamespace, t: int, seen: Tensor) -> Tensor:
        """Return what follows step t where an episode ends there."""
        after = s.next_values[..., t] if self.bootstrap else torch.zeros_like(s.rewards[..., t])
        return self.gamma * after.masked_fill(s.term[..., t], 0)

    def step(self, s: SimpleNamespace, t: int, carry: Tensor) -> Tensor:
        return s.rewards[..., t] + self.gamma * carry

    def answer(self, s: SimpleNamespace, returns: Tensor) -> Advantages:
        return Advantages(returns, returns)

    def __call__(self, batch: Trajectories) -> Advantages:
        s = cleaned(batch)
        found = torch.zeros_like(batch.rewards)
        if s.steps == 0:
            return Advantages(found, found)
        carry, seen = torch.zeros_like(found[..., 0]), torch.zeros_like(s.valid[..., 0])
        for t in reversed(range(s.steps)):
            last = self.cut(s, t) | ~seen
            new = torch.where(last, s.rewards[..., t] + self.first(s, t, seen), self.step(s, t, carry))
            carry = torch.where(s.valid[..., t], new, carry)
            seen = seen | s.valid[..., t]
            found[..., t] = torch.where(s.valid[..., t], new, 0)
        return self.answer(s, found)


class LoopNStep(AdvantageEstimator):
    """n rewards, then the critic; each step looks ahead by itself."""

    name = "loop_n_step"
    requires = frozenset({"values", "next_values"})
    gamma: float = Field(default=0.99, ge=0, le=1)
    n: int = Field(default=5, ge=1)

    def horizon(self) -> int:
        return self.n

    def weight(self, count: int) -> float:
        return self.gamma**count

    def discount(self, count: int) -> float:
        return self.gamma**count

    def stops(self, s: SimpleNamespace, row: int, t: int) -> bool:
        return bool(s.term[row, t] | s.trunc[row, t])

    def __call__(self, batch: Trajectories) -> Advantages:
        shape = batch.rewards.shape
        flat = {n: x.reshape(-1, shape[-1]) for n, x in vars(cleaned(batch)).items() if isinstance(x, Tensor)}
        s = SimpleNamespace(**flat)
        found = torch.zeros_like(s.rewards)
        for row, t in s.valid.nonzero().tolist():
            total, count, last = 0.0, 0, t
            for k in [k for k in range(t, shape[-1]) if s.valid[row, k]]:
                total, last, count = total + self.discount(count) * float(s.rewards[row, k]), k, count + 1
                if count == self.horizon() or self.stops(s, row, k):
                    break
            behind = 0.0 if s.term[row, last] else float(s.next_values[row, last])
            found[row, t] = total + self.weight(count) * behind - s.values[row, t]
        found = found.view(shape)
        return Advantages(found, torch.where(batch.valid, found + clean(batch.values, batch.valid), 0))


class LoopVTrace(AdvantageEstimator):
    """V-trace, from the back."""

    name = "loop_v_trace"
    requires = frozenset({"values", "next_values", "log_probs", "target_log_probs"})
    gamma: float = Field(default=0.99, ge=0, le=1)
    lam: float = Field(default=1.0, ge=0, le=1)
    rho_bar: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    c_bar: float = Field(default=1.0, ge=0, allow_inf_nan=True)

    def ratio(self, s: SimpleNamespace, t: int) -> Tensor:
        return (s.target_log_probs[..., t] - s.log_probs[..., t]).exp()

    def rho(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(max=self.rho_bar)

    def c(self, ratio: Tensor) -> Tensor:
        return self.lam * ratio.clamp(max=self.c_bar)

    def behind(self, s: SimpleNamespace, t: int) -> Tensor:
        return s.next_values[..., t].masked_fill(s.term[..., t], 0)

    def next_target(self, s: SimpleNamespace, t: int, last: Tensor, following: Tensor) -> Tensor:
        return torch.where(last, self.behind(s, t), following)

    def advantage(self, s: SimpleNamespace, t: int, rho: Tensor, following: Tensor) -> Tensor:
        return rho * (s.rewards[..., t] + self.gamma * following - s.values[..., t])

    def __call__(self, batch: Trajectories) -> Advantages:
        s = cleaned(batch)
        found, targets = torch.zeros_like(batch.rewards), torch.zeros_like(batch.rewards)
        if s.steps == 0:
            return Advantages(found, targets)
        following, gap = torch.zeros_like(found[..., 0]), torch.zeros_like(found[..., 0])
        seen = torch.zeros_like(s.valid[..., 0])
        for t in reversed(range(s.steps)):
            ratio, value, behind = self.ratio(s, t), s.values[..., t], self.behind(s, t)
            last = s.term[..., t] | s.trunc[..., t] | ~seen
            delta = self.rho(ratio) * (s.rewards[..., t] + self.gamma * behind - value)
            new = delta + self.gamma * self.c(ratio) * gap.masked_fill(last, 0)
            advantage = self.advantage(s, t, self.rho(ratio), self.next_target(s, t, last, following))
            on = s.valid[..., t]
            gap, following, seen = torch.where(on, new, gap), torch.where(on, value + new, following), seen | on
            found[..., t], targets[..., t] = torch.where(on, advantage, 0), torch.where(on, value + new, 0)
        return Advantages(found, targets)


class GroupLoop(AdvantageEstimator):
    """Leave-one-out within each group, response by response."""

    name = "group_loop"
    requires = frozenset({"group_ids"})
    scope = "group"

    def compare(self, own: float, group: Tensor, everyone: Tensor) -> float:
        return float(own - (group.sum() - own) / (len(group) - 1)) if len(group) > 1 else 0.0

    def score(self, rewards: Tensor, valid: Tensor) -> Tensor:
        return clean(rewards, valid).sum(-1)

    def same(self, ids: Tensor, row: int) -> Tensor:
        return ids == ids[row]

    def place(self, advantages: Tensor, valid: Tensor) -> Tensor:
        return clean(advantages[:, None].expand(valid.shape), valid)

    def __call__(self, batch: Trajectories) -> Advantages:
        valid, ids = batch.valid.reshape(-1, batch.valid.shape[-1]), batch.group_ids.flatten()
        scores, present = self.score(batch.rewards.reshape(valid.shape), valid), valid.any(-1)
        found = torch.zeros_like(scores)
        for row in present.nonzero()[:, 0].tolist():
            group = scores[self.same(ids, row) & present]
            found[row] = self.compare(float(scores[row]), group, scores[present])
        return Advantages(self.place(found, valid).view(batch.rewards.shape), None)
