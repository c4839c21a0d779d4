"""DPO on what its tokens tell: the divergence at each of them, or the part of a response that the other has too."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import BatchError, Loss, Rankings, clean
from rlhf_lab_preference.candidates import pair_in, total, valid_of
from rlhf_lab_preference.implicit import given, log_ratio_pair, loss_of_pairs

__all__ = ["LDDPO", "TDPO"]


class TDPO(PreferenceObjective):
    """Token-level DPO: the margin must also make up for a rejected response along which the policy has moved more.

    ``L = −log σ(β (h − alpha (D_l − D_w)))``,  ``h = log(π/π_ref)(y_w) − log(π/π_ref)(y_l)``

    D is the sum of KL(π_ref ‖ π) over the steps of a response. TDPO₂, the default, stops the gradient of D_w, so that
    the chosen response may move freely; TDPO₁ is alpha = 1 without ``stop_gradient``.

    Reads ``log_probs``, ``ref_log_probs`` and ``token_kl``, D with its gradient, ``[*b,2]``.

    Source: Zeng et al. 2024, eq. 17 and 18.
    """

    name = "tdpo"
    reference = "Zeng et al. 2024, eq. 17 and 18"
    requires = frozenset({"ref_log_probs", "token_kl"})
    claims = frozenset(
        {
            "beta-is-a-unit",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "convex-in-log-probs",
            "depends-on-log-ratios-only",
            "depends-on-the-margin-only",
            "divergence-shifts-the-margin",
            "equal-and-opposite-pulls",
            "every-row-counts-once",
            "gradient-of-its-value",
            "half-beta-at-the-reference",
            "log-two-at-the-reference",
            "non-negative",
            "only-rejected-divergence-pulls",
            "orders-sum-to-one",
        }
    )
    implements = "tdpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    alpha: float = Field(default=0.5, ge=0, description="weight of the divergences")
    stop_gradient: bool = Field(default=True, description="let no gradient into the chosen response's divergence")

    def __call__(self, batch: Rankings) -> Loss:
        if batch.token_kl is None:
            raise BatchError("Rankings.token_kl: this loss reads it, found None")
        pair, moved = log_ratio_pair(batch), pair_in(batch.token_kl, batch.valid)
        chosen = moved.better.detach() if self.stop_gradient else moved.better
        margin = pair.difference - self.alpha * (moved.worse - chosen)
        return loss_of_pairs(-logsigmoid(self.beta * margin), pair, self.beta)


class LDDPO(PreferenceObjective):
    """Length-desensitised DPO: what a longer response has beyond the length of the shorter one counts less.

    ``L = −log σ(β (a − b))``,  a, b = the sums of log(π/π_ref) over the tokens of the chosen, rejected response

    Each token beyond the length of the shorter response has the weight alpha in its sum. At alpha = 1 it is DPO, at
    alpha = 0 only as many tokens count as both have.

    Reads ``token_log_probs``, ``token_ref_log_probs``, ``token_valid`` ``[*b,2,t]``.

    Source: Liu et al. 2024 (arXiv 2409.06411), eq. 11.
    """

    name = "ld_dpo"
    reference = "Liu et al. 2024 (arXiv 2409.06411), eq. 11"
    requires = frozenset({"token_log_probs", "token_ref_log_probs", "token_valid"})
    claims = frozenset(
        {
            "chosen-tokens-up-rejected-down",
            "equal-lengths-weigh-alike",
            "every-row-counts-once",
            "log-two-at-the-reference",
            "longer-tails-weigh-alpha",
            "non-negative",
            "orders-sum-to-one",
            "tokens-of-weight-one-are-dpo",
        }
    )
    implements = "ld_dpo"
    stacked = True
    max_candidates = 2
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    alpha: float = Field(default=0.5, ge=0, le=1, description="weight of tokens beyond the shorter response")

    def __call__(self, batch: Rankings) -> Loss:
        if batch.token_log_probs is None or batch.token_valid is None:
            raise BatchError("Rankings.token_log_probs: this loss reads them and token_valid, found None")
        counted = batch.token_valid & valid_of(batch)[..., None]
        # Cleaning after a subtraction is safe: its gradient does not depend on the inputs.
        ratios = clean(batch.token_log_probs - given(batch.token_ref_log_probs, "token_ref_log_probs"), counted)
        place = counted.cumsum(-1)  # [*b,k,t] how many tokens so far
        shorter = self._shorter(place[..., -1].to(ratios.dtype), batch)
        weighed = torch.where(place > shorter[..., None, None], self.alpha, 1.0).to(ratios.dtype) * ratios
        pair = pair_in(total(weighed), batch.valid)
        return loss_of_pairs(-logsigmoid(self.beta * pair.difference), pair, self.beta)

    @staticmethod
    def _shorter(lengths: Tensor, batch: Rankings) -> Tensor:
        pair = pair_in(lengths, batch.valid)
        return torch.minimum(pair.better, pair.worse)
