"""Anchored preference optimisation: which way a pair's two responses go, by how the chosen one compares with the model.

Losses on a = log(π/π_ref) of the chosen and b of the rejected response.
"""

from __future__ import annotations

from pydantic import Field

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.implicit import log_ratio_pair, loss_of_pairs

__all__ = ["APODown", "APOZero"]


class APOZero(PreferenceObjective):
    """Anchored preference optimisation for chosen responses better than the model's own: chosen up, rejected down.

    ``L = 1 − σ(β a) + σ(β b)``,  a, b = log(π/π_ref) of the chosen, rejected response

    Between 0 and 2; the slopes vanish far from the reference on either side.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: D'Oosterlinck et al. 2024, eq. 7.
    """

    name = "apo_zero"
    reference = "D'Oosterlinck et al. 2024, eq. 7"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "bounded",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "pull-fades-far-away",
            "quarter-beta-at-the-reference",
            "responses-do-not-mix",
        }
    )
    implements = "apo_zero"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        values = (-self.beta * pair.better).sigmoid() + (self.beta * pair.worse).sigmoid()
        return loss_of_pairs(values, pair, self.beta)


class APODown(PreferenceObjective):
    """Anchored preference optimisation for chosen responses worse than the model's own: both down, rejected more.

    ``L = σ(β a) + 1 − σ(β (a − b))``,  a, b = log(π/π_ref) of the chosen, rejected response

    Between 0 and 2. At the same margin it rises with a, at the same a it falls with the margin; the chosen response is
    pulled both ways. At the reference only the rejected response moves: the pulls on the chosen one cancel.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: D'Oosterlinck et al. 2024, eq. 8.
    """

    name = "apo_down"
    reference = "D'Oosterlinck et al. 2024, eq. 8"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "bounded",
            "chosen-down-margin-up",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "pull-fades-far-away",
            "rejected-alone-moves-at-the-reference",
        }
    )
    implements = "apo_down"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        values = (self.beta * pair.better).sigmoid() + (-self.beta * pair.difference).sigmoid()
        return loss_of_pairs(values, pair, self.beta)
