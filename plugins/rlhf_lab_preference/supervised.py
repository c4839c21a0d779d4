"""Supervised learning of the chosen response, alone and beside a preference loss."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings, clean
from rlhf_lab_preference.candidates import valid_of
from rlhf_lab_preference.implicit import given, lengths_of, log_prob_pair, log_ratio_pair, loss_of_pairs

__all__ = ["CPO", "SFT", "IterativeRPO", "RPOWithSFT", "SLiC"]


class SFT(PreferenceObjective):
    """Supervised fine-tuning: the negative log-likelihood of the best response, whatever the others are.

    ``L = −log π(y_1)``, with ``per_token`` divided by |y_1|

    Its optimum is the distribution that the best responses come from. Of the policy's own samples its gradient is 0 in
    expectation.

    Reads ``log_probs`` ``[*b,k]`` and, with ``per_token``, ``lengths`` of the first valid response of each row; a row
    without one has weight 0.

    Source: Ouyang et al. 2022, section 3.5; Rafailov et al. 2023, section 3.
    """

    name = "sft"
    reference = "Ouyang et al. 2022, section 3.5"
    claims = frozenset(
        {
            "convex-in-log-probs",
            "every-row-counts-once",
            "gradient-of-its-value",
            "is-negative-log-likelihood",
            "non-negative",
            "only-the-best-matters",
        }
    )
    implements = "sft"
    stacked = True
    per_token: bool = Field(default=False, description="divide by the response's length")

    def needs(self) -> frozenset[str]:
        return frozenset({"lengths"}) if self.per_token else frozenset()

    def __call__(self, batch: Rankings) -> Loss:
        valid = valid_of(batch)
        best = valid & (valid.cumsum(-1) == 1)
        # one term each, so these sums are exact
        values = -clean(batch.log_probs, best).sum(-1)
        if self.per_token:
            values = values / clean(given(batch.lengths, "lengths"), best).sum(-1).clamp(min=1)
        return Loss(values, weights=best.any(-1).to(values.dtype))


class CPO(PreferenceObjective):
    """Contrastive preference optimisation: DPO under a uniform reference, and supervised learning of the chosen one.

    ``L = −log σ(β (log π(y_w) − log π(y_l))) − lam log π(y_w)``

    Reads ``log_probs`` ``[*b,2]``.

    Source: Xu et al. 2024 (CPO), eq. 3 to 5.
    """

    name = "cpo"
    reference = "Xu et al. 2024 (CPO), eq. 3 to 5"
    claims = frozenset(
        {
            "chosen-up-rejected-down",
            "convex-in-log-probs",
            "every-row-counts-once",
            "gradient-of-its-value",
            "lam-weighs-imitation",
            "non-negative",
            "uniform-reference-is-dpo",
        }
    )
    implements = "cpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="scale of the log-probabilities' difference")
    lam: float = Field(default=1.0, ge=0, description="weight of supervised learning")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_prob_pair(batch)
        return loss_of_pairs(-logsigmoid(self.beta * pair.difference) - self.lam * pair.better, pair, self.beta)


class SLiC(PreferenceObjective):
    """Sequence likelihood calibration: a hinge on log-probabilities, and supervised learning of the chosen response.

    ``L = max(0, delta − log π(y_w) + log π(y_l)) − lam log π(y_w)``

    The paper's second term is of a target text of the supervised data; where there are only pairs, the chosen response
    is that text. There is no reference policy: the second term stands for it.

    Reads ``log_probs`` ``[*b,2]``.

    Source: Zhao et al. 2023 (SLiC-HF), eq. 1.
    """

    name = "slic"
    reference = "Zhao et al. 2023 (SLiC-HF), eq. 1"
    claims = frozenset(
        {
            "chosen-up-rejected-down",
            "convex-in-log-probs",
            "every-row-counts-once",
            "gradient-of-its-value",
            "lam-weighs-imitation",
            "non-negative",
            "zero-beyond-delta",
        }
    )
    implements = "slic"
    stacked = True
    max_candidates = 2
    delta: float = Field(default=1.0, ge=0, description="difference of log-probabilities that is enough")
    lam: float = Field(default=0.1, ge=0, description="weight of supervised learning")

    def __call__(self, batch: Rankings) -> Loss:
        pair = log_prob_pair(batch)
        return loss_of_pairs((self.delta - pair.difference).relu() - self.lam * pair.better, pair)


class IterativeRPO(PreferenceObjective):
    """DPO, and supervised learning of the chosen response per token, as iterative reasoning optimisation has it.

    ``L = −log σ(β h) − alpha log π(y_w)/|y_w|``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    Three papers call their loss RPO; this is that of iterative reasoning preference optimisation. ``rpo_sft`` and
    ``rpo_reward_aware`` are the others. Versions of the paper differ in where alpha stands; here, as in the last one
    and in TRL, it is on the supervised term.

    Reads ``log_probs``, ``ref_log_probs``, ``lengths`` ``[*b,2]``.

    Source: Pang et al. 2024 (arXiv 2404.19733), eq. 1.
    """

    name = "rpo_iterative"
    reference = "Pang et al. 2024 (arXiv 2404.19733), eq. 1"
    requires = frozenset({"ref_log_probs", "lengths"})
    claims = frozenset(
        {
            "at-least-dpo",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "every-row-counts-once",
            "gradient-of-its-value",
            "imitation-is-per-token",
            "non-negative",
            "without-imitation-is-dpo",
        }
    )
    implements = "rpo_iterative"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    alpha: float = Field(default=1.0, ge=0, description="weight of supervised learning")

    def __call__(self, batch: Rankings) -> Loss:
        imitation = -log_prob_pair(batch).better / lengths_of(batch).better
        return _beside_dpo(batch, self.beta, self.alpha * imitation)


class RPOWithSFT(PreferenceObjective):
    """DPO, and supervised learning of a baseline policy's responses, which makes it cautious about unseen ones.

    ``L = −log σ(β h) − eta β log π(y_w)``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    Three papers call their loss RPO; this is regularised preference optimisation. ``rpo_iterative`` and
    ``rpo_reward_aware`` are the others. The baseline policy is the one that the chosen responses come from.

    Reads ``log_probs``, ``ref_log_probs`` ``[*b,2]``.

    Source: Liu et al. 2024 (arXiv 2405.16436), algorithm 2.
    """

    name = "rpo_sft"
    reference = "Liu et al. 2024 (arXiv 2405.16436), algorithm 2"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset(
        {
            "at-least-dpo",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "every-row-counts-once",
            "gradient-of-its-value",
            "imitation-in-units-of-beta",
            "non-negative",
            "without-imitation-is-dpo",
        }
    )
    implements = "rpo_sft"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    eta: float = Field(default=0.005, ge=0, description="weight of supervised learning, in units of beta")

    def __call__(self, batch: Rankings) -> Loss:
        return _beside_dpo(batch, self.beta, -self.eta * self.beta * log_prob_pair(batch).better)


def _beside_dpo(batch: Rankings, beta: float, more: Tensor) -> Loss:
    pair = log_ratio_pair(batch)
    return loss_of_pairs(more - logsigmoid(beta * pair.difference), pair, beta)
