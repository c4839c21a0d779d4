"""The policy gradient and its importance-weighted form, with what all ratio objectives share.

Only ``log_probs`` carries gradient here: advantages and old log-probabilities are detached where they are read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import BatchError, Loss, PolicyBatch, clean

__all__ = ["ImportanceWeighted", "Reinforce", "advantages_of", "log_ratio_of", "ratio_metrics"]


class Reinforce(PolicyObjective):
    """The score-function loss, whose gradient is the policy gradient on on-policy data; A2C's policy term.

    ``L[t] = −A[t] · log π(a[t]|s[t])``

    Its value means nothing, only its gradient does. With ``sequence_sum`` it is Williams' estimator, with
    ``token_mean`` that of A2C; ``sequence_mean`` would weigh the steps of short episodes more and bias it. The factor
    γᵗ of a discounted objective belongs to the advantages.

    Reads ``log_probs``, ``advantages`` ``[*b,t]`` at valid steps.

    Source: Williams 1992, theorem 1; Mnih et al. 2016, section 4.
    """

    name = "reinforce"
    reference = "Williams 1992, theorem 1"
    claims = frozenset(
        {
            "gradient-everywhere",
            "gradient-independent-of-log-probs",
            "every-step-counts-once",
            "gradient-of-its-value",
            "homogeneous-in-advantages",
            "linear-in-advantages",
            "linear-in-log-probs",
            "never-against-advantage",
            "on-policy-gradient",
            "unbiased-on-policy",
            "value-is-gradient-times-log-prob",
            "zero-advantage-zero-gradient",
        }
    )
    implements = "reinforce"
    stacked = True
    aggregations = ("token_mean", "sequence_sum", "constant")

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-advantages_of(batch) * clean(batch.log_probs, batch.valid))


class ImportanceWeighted(PolicyObjective):
    """The unclipped surrogate of conservative policy iteration: the policy gradient for data of an older policy.

    ``L[t] = −ρ[t] A[t]``,  ``ρ = exp(log π − log π_old)``

    At π = π_old its value is −A and its gradient that of ``reinforce``. Nothing keeps ρ near 1: ``ppo_clip`` adds that.

    Reads ``log_probs``, ``old_log_probs``, ``advantages`` ``[*b,t]`` at valid steps.

    Source: Kakade & Langford 2002; Schulman et al. 2015, eq. 14; Schulman et al. 2017, eq. 6.
    """

    name = "importance_weighted"
    reference = "Schulman et al. 2017, eq. 6"
    requires = frozenset({"old_log_probs"})
    claims = frozenset(
        {
            "depends-on-ratios-only",
            "gradient-everywhere",
            "every-step-counts-once",
            "gradient-of-its-value",
            "homogeneous-in-advantages",
            "linear-in-advantages",
            "linear-in-ratio",
            "never-against-advantage",
            "on-policy-gradient",
            "on-policy-value",
            "pessimistic-bound",
            "unbiased-off-policy",
            "unbiased-on-policy",
            "unbiased-surrogate",
            "zero-advantage-zero-gradient",
        }
    )
    implements = "importance_weighted"
    stacked = True
    aggregations = ("token_mean", "sequence_sum", "constant")

    def __call__(self, batch: PolicyBatch) -> Loss:
        log_ratio = log_ratio_of(batch)
        return Loss(-advantages_of(batch) * log_ratio.exp(), metrics=ratio_metrics(log_ratio))


def advantages_of(batch: PolicyBatch) -> Tensor:
    """Return the advantages without gradient, 0 where not valid."""
    return clean(batch.advantages.detach(), batch.valid)


def log_ratio_of(batch: PolicyBatch) -> Tensor:
    """Return ``log ρ = log π − log π_old`` with gradient in the first term only, 0 where not valid."""
    if batch.old_log_probs is None:
        raise BatchError(
            "PolicyBatch.old_log_probs: this objective weighs by exp(log_probs - old_log_probs), found None"
        )
    # Cleaning after a subtraction is safe, unlike after exp or log: its gradient, 1, does not depend on the inputs.
    return clean(batch.log_probs - batch.old_log_probs.detach(), batch.valid)


def ratio_metrics(log_ratio: Tensor) -> dict[str, Tensor]:
    """Return ``ratio`` ρ and ``approx_kl`` ρ − 1 − log ρ ≥ 0, whose mean over π_old is KL(π_old ‖ π)."""
    log_ratio = log_ratio.detach()
    return {"ratio": log_ratio.exp(), "approx_kl": torch.expm1(log_ratio) - log_ratio}
