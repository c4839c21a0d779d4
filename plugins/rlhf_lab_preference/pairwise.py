"""Losses on the margin of a pair, h = a − b: the log-ratio log(π/π_ref) of the chosen response less the rejected one's.

They depend on nothing else, so that a number added to the rewards of all responses to a prompt changes nothing, and
they push both responses with equal force.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.implicit import given, log_ratio_pair, loss_of_pairs

__all__ = ["IPO", "DiscoPOP", "Hinge", "RewardAwareRPO"]


class IPO(PreferenceObjective):
    """Identity preference optimisation: the margin is drawn to a finite target, however clear the preference.

    ``L = (h − 1/(2 β))²``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    The target is (p − ½)/β for a response that is preferred with probability p. Labels drawn with p have that optimum
    in expectation; with ``soft_labels`` the loss reads p itself. Log-probabilities are summed over tokens, as in the
    paper; TRL's divides them by length.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]`` and, with ``soft_labels``, ``preference_prob`` ``[*b]``.

    Source: Azar et al. 2023, eq. 17, where β is called τ.
    """

    name = "ipo"
    reference = "Azar et al. 2023, eq. 17"
    claims = frozenset(
        {
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "one-over-beta-at-the-reference",
            "optimum-is-half-over-beta",
            "population-optimum-is-linear",
            "soft-labels-are-expectations",
        }
    )
    implements = "ipo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    soft_labels: bool = Field(default=False, description="read how probable the preference is")

    def needs(self) -> frozenset[str]:
        return frozenset({"ref_log_probs"} | ({"preference_prob"} if self.soft_labels else set()))

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        certainty = given(batch.preference_prob, "preference_prob") - 0.5 if self.soft_labels else 0.5
        return loss_of_pairs((pair.difference - certainty / self.beta).square(), pair, self.beta)


class Hinge(PreferenceObjective):
    """A hinge on the margin: a pair that is far enough apart teaches nothing more.

    ``L = max(0, 1 − β h)``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Liu et al. 2023 (RSO), the normalised hinge loss, where β is called γ.
    """

    name = "hinge"
    reference = "Liu et al. 2023 (RSO)"
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
            "non-negative",
            "zero-beyond-the-margin",
        }
    )
    implements = "hinge"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        return loss_of_pairs(torch.relu(1 - self.beta * pair.difference), pair, self.beta)


class RewardAwareRPO(PreferenceObjective):
    """Reward-aware preference optimisation: the implicit reward's margin is drawn to that of a given reward.

    ``L = KL(σ(η Δr) ‖ σ(β h))`` of two coins,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    Three papers call their loss RPO; this is that of Nemotron-4. ``rpo_iterative`` and ``rpo_sft`` are the others. Its
    optimum β h = η Δr tells how much better a response is, not only that it is better.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]`` and ``margins`` ``[*b]``, Δr = r(y_w) − r(y_l).

    Source: Nvidia 2024 (Nemotron-4), section 3.3.2.
    """

    name = "rpo_reward_aware"
    reference = "Nvidia 2024 (Nemotron-4), section 3.3.2"
    requires = frozenset({"ref_log_probs", "margins"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "fair-coin-for-equal-rewards",
            "gradient-of-its-value",
            "non-negative",
            "optimum-is-the-given-reward",
        }
    )
    implements = "rpo_reward_aware"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    eta: float = Field(default=1.0, gt=0, description="scale of the given rewards")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        margin, target = self.beta * pair.difference, self.eta * given(batch.margins, "margins")
        return loss_of_pairs(_divergence(target, margin) + _divergence(-target, -margin), pair, self.beta)


class DiscoPOP(PreferenceObjective):
    """The loss that a language model found when asked for new ones: logistic near 0, exponential where it is right.

    ``L = (1 − g) (−log σ(z)) + g e^{−z}``,  ``z = β h``,  ``g = σ(z/tau)``

    It is not convex: near z = 0 it rises for a stretch, from −0.119 to 0.072 for the default tau. It is nowhere below
    DPO, as e^{−z} > log(1 + e^{−z}). As g e^{−z} = e^{log g − z}, whose exponent is at most 0, it is finite at any
    margin.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Lu et al. 2024, eq. 5 (log-ratio modulated loss).
    """

    name = "discopop"
    reference = "Lu et al. 2024, eq. 5"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "at-least-dpo",
            "beta-is-a-unit",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "half-way-at-the-reference",
            "logistic-where-wrong",
            "non-negative",
        }
    )
    implements = "discopop"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    tau: float = Field(default=0.05, gt=0, le=1, description="margin over which one form turns into the other")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        margin = self.beta * pair.difference
        logistic = (-margin / self.tau).sigmoid() * -logsigmoid(margin)
        return loss_of_pairs(logistic + torch.exp(logsigmoid(margin / self.tau) - margin), pair, self.beta)


def _divergence(target: Tensor, margin: Tensor) -> Tensor:
    """Return one side's part in the divergence of coins with these log-odds."""
    return target.sigmoid() * (logsigmoid(target) - logsigmoid(margin))
