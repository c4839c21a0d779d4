"""Shifting and scaling advantages before the objective sees them; the value targets stay as they are.

Rows, runs and what is ``stacked``: see ``layout``. The answer is 0 where not valid, in a constant group and in one
that is too small for a standard deviation; never NaN.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageNormalizer
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_advantages.layout import by_run, episode_ends, episode_labels, given, relabel, run_labels, table
from rlhf_lab_advantages.statistics import standardised, sums

__all__ = ["BatchNormalizer", "GroupNormalizer", "NoNormalizer"]

_STANDARDISED = frozenset(
    {
        "mean-zero",
        "unit-deviation",
        "shifted-and-scaled",
        "shift-invariant",
        "scale-invariant",
        "constant-is-zero",
        "odd",
    }
)


class NoNormalizer(AdvantageNormalizer):
    """Leaves advantages as they are.

    Source: none; the policy gradient theorem asks for no normalisation.
    """

    name = "none"
    scope = "step"
    stacked = True
    claims = frozenset({"identity", "odd", "shifted-and-scaled"})
    implements = "none"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        return advantages


class _Standardiser(AdvantageNormalizer):
    stacked = True

    over: Literal["steps", "episodes"] = Field(
        default="steps", description="what counts once: every step, or every episode whatever its length"
    )
    ddof: int = Field(
        default=1, ge=0, le=1, description="the variance divides by the number of steps or episodes minus this"
    )
    eps: float = Field(default=1e-8, ge=0, description="added to the standard deviation")

    def _standardise(self, batch: Trajectories, advantages: Advantages, labels: Tensor, groups: int) -> Advantages:
        """Standardise within groups of rows, ``labels [rows]``."""
        if advantages.advantages.numel() == 0:
            return advantages  # a row without steps has no smallest one to shift by
        valid = batch.valid.double()
        if self.over == "steps":
            weights, counts = valid, batch.valid
        else:
            weights, counts = valid / _lengths(batch), episode_ends(batch)
        sizes = sums(table(counts).double().sum(-1), labels, groups)
        answer = standardised(table(advantages.advantages), table(weights), labels, sizes, ddof=self.ddof, eps=self.eps)
        raw = advantages.advantages
        return Advantages(answer.to(raw.dtype).view(raw.shape), advantages.returns)


class BatchNormalizer(_Standardiser):
    """Standardises over a whole run's batch, as PPO implementations do.

    A ← (A − mean) / (std + eps), over valid steps. With ``over: episodes`` a step of an episode with L valid steps
    weighs 1/L in both, so that every episode counts once.

    Source: Andrychowicz et al. 2021, "What matters in on-policy RL" (there per minibatch).
    """

    name = "batch"
    reference = "Andrychowicz et al. 2021"
    claims = _STANDARDISED
    implements = "batch"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        runs = len(by_run(batch.rewards))
        return self._standardise(batch, advantages, run_labels(batch.rewards), runs)


class GroupNormalizer(_Standardiser):
    """Standardises over the rows of each prompt, so that every prompt weighs alike whatever the spread of its rewards.

    A ← (A − mean) / (std + eps), over the valid steps of the rows with equal ``group_ids``; ``over`` as in ``batch``.

    Source: Shao et al. 2024, section 4.1.2, applied to any advantages.
    """

    name = "group"
    reference = "Shao et al. 2024, section 4.1.2"
    requires = frozenset({"group_ids"})
    scope = "group"
    claims = _STANDARDISED
    implements = "group"

    def __call__(self, batch: Trajectories, advantages: Advantages) -> Advantages:
        labels, groups = relabel(run_labels(batch.rewards), given(batch, "group_ids").flatten())
        return self._standardise(batch, advantages, labels, groups)


def _lengths(batch: Trajectories) -> Tensor:
    """Return how many valid steps the episode of each step has, ``[*b,t]``, at least 1."""
    labels, episodes = episode_labels(batch)
    valid = by_run(batch.valid).double()
    lengths = valid.new_zeros(len(valid), episodes).scatter_add_(1, labels, valid)
    return lengths.gather(1, labels).clamp(min=1).view(batch.valid.shape)
