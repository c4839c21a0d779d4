"""DPO for labels that are wrong at a known rate: losses on the margin of a pair, h = a − b."""

from __future__ import annotations

import math

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.implicit import log_ratio_pair, loss_of_pairs

__all__ = ["EXO", "CautiousDPO", "RobustDPO"]


class CautiousDPO(PreferenceObjective):
    """DPO for labels that are wrong at a known rate: the likelihood of the label that a noisy judge would give.

    ``L = −(1 − e) log σ(β h) − e log σ(−β h)``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    e is ``label_smoothing``. Unlike DPO it has a finite optimum, β h = log((1 − e)/e), and pulls back beyond it.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO".
    """

    name = "cdpo"
    reference = "Mitchell 2023, A note on DPO with noisy preferences"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "log-two-at-the-reference",
            "non-negative",
            "optimum-is-the-smoothed-logit",
            "smoothing-zero-is-dpo",
        }
    )
    implements = "cdpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5, description="how often a label is wrong")

    def __call__(self, batch: Rankings) -> Loss:
        pair, e = log_ratio_pair(batch), self.label_smoothing
        margin = self.beta * pair.difference
        return loss_of_pairs(-(1 - e) * logsigmoid(margin) - e * logsigmoid(-margin), pair, self.beta)


class RobustDPO(PreferenceObjective):
    """DPO for labels that are wrong at a known rate: in expectation over the flips, the loss of the right labels.

    ``L = [−(1 − e) log σ(β h) + e log σ(−β h)] / (1 − 2 e)``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    e is ``label_smoothing``. A single loss is unbounded below: L → −e β h / (1 − 2 e) as h → ∞, so that on labels
    without a flip it diverges.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Chowdhury et al. 2024 (robust DPO).
    """

    name = "robust_dpo"
    reference = "Chowdhury et al. 2024 (robust DPO)"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "log-two-at-the-reference",
            "smoothing-zero-is-dpo",
            "unbiased-under-flips",
        }
    )
    implements = "robust_dpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    label_smoothing: float = Field(default=0.1, ge=0, lt=0.5, description="how often a label is wrong")

    def __call__(self, batch: Rankings) -> Loss:
        pair, e = log_ratio_pair(batch), self.label_smoothing
        margin = self.beta * pair.difference
        values = (e * logsigmoid(-margin) - (1 - e) * logsigmoid(margin)) / (1 - 2 * e)
        return loss_of_pairs(values, pair, self.beta)


class EXO(PreferenceObjective):
    """Efficient exact optimisation for pairs: the reverse divergence from the smoothed label, where DPO's is forward.

    ``L = q log(q/(1 − e)) + (1 − q) log((1 − q)/e)``,  ``q = σ(β h)``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    e is ``label_smoothing``; the optimum is that of ``cdpo``, β h = log((1 − e)/e), where the loss is 0. Its gradient
    vanishes far from the optimum on either side, so that a pair that is clearly the wrong way round is given up.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Ji et al. 2024, eq. 16.
    """

    name = "exo"
    reference = "Ji et al. 2024, eq. 16"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down-at-the-reference",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "fair-coin-at-the-reference",
            "gradient-of-its-value",
            "non-negative",
            "optimum-is-the-smoothed-logit",
            "pull-fades-far-away",
        }
    )
    implements = "exo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    label_smoothing: float = Field(default=1e-3, gt=0, lt=0.5, description="how often a label is wrong")

    def __call__(self, batch: Rankings) -> Loss:
        pair, e = log_ratio_pair(batch), self.label_smoothing
        margin = self.beta * pair.difference
        right = margin.sigmoid() * (logsigmoid(margin) - math.log1p(-e))
        wrong = (-margin).sigmoid() * (logsigmoid(-margin) - math.log(e))
        return loss_of_pairs(right + wrong, pair, self.beta)
