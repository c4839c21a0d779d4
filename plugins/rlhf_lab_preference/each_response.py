"""Losses on the two log-ratios of a pair, a of the chosen and b of the rejected response, each for itself.

A margin may grow while both responses become less probable; these losses say where each of them should go.
"""

from __future__ import annotations

from pydantic import Field
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_preference.implicit import given, log_ratio_pair, loss_of_pairs

__all__ = ["BCO", "DPOP", "NCA", "SPPO"]


class DPOP(PreferenceObjective):
    """DPO-positive: DPO with a penalty where the chosen response has become less probable than under the reference.

    ``L = −log σ(β (h − lam max(0, −a)))``,  ``h = a − b``,  a, b = log(π/π_ref) of the chosen, rejected response

    It is DPO while a ≥ 0, slopes at the kink of a = 0 included, and never below it.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Pal et al. 2024 (Smaug), eq. 3.
    """

    name = "dpop"
    reference = "Pal et al. 2024 (Smaug), eq. 3"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "at-least-dpo",
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "fallen-counts-more",
            "half-beta-at-the-reference",
            "log-two-at-the-reference",
            "non-negative",
            "penalty-zero-is-dpo",
            "unfallen-is-dpo",
        }
    )
    implements = "dpop"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    lam: float = Field(default=50.0, ge=0, description="weight of the penalty")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        fallen = (-pair.better).relu()
        return loss_of_pairs(-logsigmoid(self.beta * (pair.difference - self.lam * fallen)), pair, self.beta)


class SPPO(PreferenceObjective):
    """Self-play preference optimisation: the log-ratio of each response is drawn to its own target.

    ``L = (a − 1/(2 β))² + (b + 1/(2 β))²``,  a, b = log(π/π_ref) of the chosen, rejected response

    For a response that is preferred with probability p the targets are ±(p − ½)/β; hard labels have p = 1, with
    ``soft_labels`` p is read. The margin at the optimum is 1/β, twice that of IPO. β is 1/η in the paper.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]`` and, with ``soft_labels``, ``preference_prob`` ``[*b]``.

    Source: Wu et al. 2024 (SPPO), eq. 4.7.
    """

    name = "sppo"
    reference = "Wu et al. 2024 (SPPO), eq. 4.7"
    claims = frozenset(
        {
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "one-over-beta-at-the-reference",
            "optimum-of-each-response",
            "responses-do-not-mix",
            "soft-labels-are-expectations",
        }
    )
    implements = "sppo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    soft_labels: bool = Field(default=False, description="read how probable the preference is")

    def needs(self) -> frozenset[str]:
        return frozenset({"ref_log_probs"} | ({"preference_prob"} if self.soft_labels else set()))

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        certainty = given(batch.preference_prob, "preference_prob") - 0.5 if self.soft_labels else 0.5
        target = certainty / self.beta
        return loss_of_pairs((pair.better - target).square() + (pair.worse + target).square(), pair, self.beta)


class NCA(PreferenceObjective):
    """Noise-contrastive alignment for pairs: the chosen response has an optimum of its own, so it is not let fall.

    ``L = −log σ(β a) − ½ log σ(−β a) − ½ log σ(−β b)``,  a, b = log(π/π_ref) of the chosen, rejected response

    Alone the terms of a are least at σ(β a) = 2/3. At the reference the slopes are −β/4 and +β/4.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Chen et al. 2024 (arXiv 2402.05369), eq. 11 for two responses, of which one has all the reward.
    """

    name = "nca"
    reference = "Chen et al. 2024 (arXiv 2402.05369)"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-has-an-optimum",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "non-negative",
            "quarter-beta-at-the-reference",
            "responses-do-not-mix",
        }
    )
    implements = "nca"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        chosen, rejected = self.beta * pair.better, self.beta * pair.worse
        values = -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)
        return loss_of_pairs(values, pair, self.beta)


class BCO(PreferenceObjective):
    """Binary classifier optimisation for pairs: one classifier says "chosen", another "rejected", with a given shift.

    ``L = −log σ(β a − δ) − log σ(−(β b − δ))``,  a, b = log(π/π_ref) of the chosen, rejected response

    It is an upper bound of the DPO loss for every shift δ. The paper lets δ follow the mean of β a and β b over the
    data; here it is the parameter ``shift``, and its default of 0 is the form that TRL calls bco_pair.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Jung et al. 2024 (arXiv 2404.04656), theorem 3.
    """

    name = "bco"
    reference = "Jung et al. 2024 (arXiv 2404.04656)"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "at-least-dpo",
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "every-row-counts-once",
            "gradient-of-its-value",
            "half-beta-at-the-reference",
            "non-negative",
            "responses-do-not-mix",
            "shift-moves-both",
        }
    )
    implements = "bco"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    shift: float = Field(default=0.0, ge=-100, le=100, description="implicit reward that parts good from bad")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_ratio_pair(batch)
        chosen, rejected = self.beta * pair.better - self.shift, self.beta * pair.worse - self.shift
        return loss_of_pairs(-logsigmoid(chosen) - logsigmoid(-rejected), pair, self.beta)
