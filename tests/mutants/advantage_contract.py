"""Estimators that break the contract of every component: purity, precision, runs, declarations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from mutants.advantage_entry import mutant, shifted
from mutants.advantage_loops import GroupLoop, LoopGAE, LoopMonteCarlo, cleaned
from rlhf_lab.types import Advantages, Trajectories, clean


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


@mutant("float32 inside, float64 told", "gae")
class RoundedInside(LoopGAE):
    name = "rounded_inside"

    def delta(self, s: SimpleNamespace, t: int) -> Tensor:
        found = super().delta(s, t)
        return found.float().to(found.dtype)


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
