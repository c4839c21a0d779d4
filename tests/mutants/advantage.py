"""Broken advantage estimators, and right ones in another form."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

from torch import Tensor

from mutants import advantage_contract, advantage_critics, advantage_groups, advantage_returns  # noqa: F401 enters them
from mutants.advantage_entry import ENTERED
from mutants.advantage_groups import Standardised
from mutants.advantage_loops import GroupLoop, LoopGAE, LoopMonteCarlo, LoopNStep, LoopVTrace, cleaned
from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Trajectories

__all__ = ["CONTROLS", "MUTANTS"]

MUTANTS: Final = ENTERED
CONTROLS: Final[list[type[AdvantageEstimator]]] = []


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
class PlainGRPO(Standardised):
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
