"""Advantages without a critic: a response is compared with the other responses to its prompt.

A row is one response, its score the sum of its valid rewards, and rows with equal ``group_ids`` in the same run
answer the same prompt, wherever they stand. The advantage stands on each valid step of the row. There are no value
targets.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Refused, Trajectories, clean
from rlhf_lab_advantages.layout import given, last_valid, relabel, run_labels, table
from rlhf_lab_advantages.statistics import centred, standardised, sums

__all__ = ["GRPO", "RLOO", "GroupMean"]


class _GroupEstimator(AdvantageEstimator):
    requires = frozenset({"group_ids"})
    scope = "group"
    stacked = True

    def __call__(self, batch: Trajectories) -> Advantages:
        _refuse_several_episodes(batch)
        ids = given(batch, "group_ids").flatten()
        labels, groups = relabel(run_labels(batch.rewards), ids)
        valid = table(batch.valid)
        scores = clean(table(batch.rewards), valid).double().sum(-1, keepdim=True)
        present = valid.any(-1, keepdim=True).double()  # a row without a valid step is no response
        sizes = sums(present[:, 0], labels, groups)
        advantages = self._compare(scores, present, labels, sizes).to(batch.rewards.dtype)
        return Advantages(clean(advantages.expand(valid.shape), valid).view(batch.rewards.shape), None)

    @abstractmethod
    def _compare(self, scores: Tensor, present: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        """Return the advantage of each response from ``scores [rows, 1]``; arguments as in ``statistics.centred``."""


class RLOO(_GroupEstimator):
    """REINFORCE leave-one-out: the score minus the mean score of the other responses to the prompt.

    Aᵢ = sᵢ − Σ_{j≠i} sⱼ/(K−1) = K/(K−1)·(sᵢ − mean s), for K responses; one alone: 0. The expected gradient is exact.

    Source: Kool, van Hoof and Welling 2019; Ahmadian et al. 2024.
    """

    name = "rloo"
    reference = "Kool et al. 2019"
    claims = frozenset(
        {
            "constant-group-is-zero",
            "linear-in-rewards-and-values",
            "one-response-is-zero",
            "order-kept",
            "own-score-counts-once",
            "score-is-the-sum",
            "shift-invariant-scores",
            "sums-to-zero",
            "unbiased-gradient",
        }
    )
    implements = "rloo"

    def _compare(self, scores: Tensor, present: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        factor = sizes / (sizes - 1).clamp(min=1)
        return centred(scores, present, labels, sizes) * factor[labels, None]


class GRPO(_GroupEstimator):
    """Group-relative advantages: scores standardised within the group.

    Aᵢ = (sᵢ − mean s) / (std s + eps); a response alone and a group of equal scores: 0. The division makes the size
    of a prompt's gradient depend on how hard it is.

    Source: Shao et al. 2024, section 4.1.2 (which adds no eps; std with ddof 1 and eps are those of TRL).
    """

    name = "grpo"
    reference = "Shao et al. 2024, section 4.1.2"
    claims = frozenset(
        {
            "bernoulli-rewards-give-arcsin",
            "constant-group-is-zero",
            "one-response-is-zero",
            "order-kept",
            "scale-invariant-scores",
            "score-is-the-sum",
            "shift-invariant-scores",
            "sums-to-zero",
            "unit-deviation",
        }
    )
    implements = "grpo"

    ddof: int = Field(default=1, ge=0, le=1, description="the variance divides by the size of the group minus this")
    eps: float = Field(default=1e-4, ge=0, description="added to the standard deviation")

    def _compare(self, scores: Tensor, present: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        return standardised(scores, present, labels, sizes, ddof=self.ddof, eps=self.eps)


class GroupMean(_GroupEstimator):
    """GRPO without the division, as in Dr. GRPO: the score minus the mean score of the group.

    Aᵢ = sᵢ − mean s. The own score is part of the mean, so that the expected gradient is (K−1)/K of the exact one.

    Source: Liu et al. 2025, "Understanding R1-Zero-like training", section 3.
    """

    name = "grpo_mean"
    reference = "Liu et al. 2025"
    claims = frozenset(
        {
            "constant-group-is-zero",
            "group-mean-shrinks-gradient",
            "linear-in-rewards-and-values",
            "one-response-is-zero",
            "order-kept",
            "score-is-the-sum",
            "shift-invariant-scores",
            "sums-to-zero",
        }
    )
    implements = "grpo_mean"

    def _compare(self, scores: Tensor, present: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
        return centred(scores, present, labels, sizes)


def _refuse_several_episodes(batch: Trajectories) -> None:
    inner = (batch.terminated | batch.truncated) & ~last_valid(batch.valid)
    if bool(inner.any()):
        at = [int(i) for i in inner.nonzero()[0]]
        raise Refused(
            f"Trajectories: row {at[:-1]} holds several episodes (one ends at step {at[-1]}, and valid steps follow); "
            "a group estimator takes one episode, a response, per row. Split the row"
        )
