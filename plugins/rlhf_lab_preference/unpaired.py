"""Losses on responses that are labelled one by one, with no other response to compare with."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import BatchError, Loss, Rankings, clean
from rlhf_lab_preference.candidates import total, valid_of
from rlhf_lab_preference.implicit import given, log_ratios

__all__ = ["KTO"]


class KTO(PreferenceObjective):
    """Kahneman-Tversky optimisation: gains and losses against a reference point, each with its own weight.

    ``L = lam_d (1 − σ(β (a − z)))`` of a desirable response,  ``L = lam_u (1 − σ(β (z − a)))`` of an undesirable one

    a = log(π/π_ref) of the response; z = max(0, mean of log(π/π_ref) over mismatched pairs of prompt and response)
    estimates KL(π ‖ π_ref) and carries no gradient. A response far on either side of z teaches nothing more. The paper
    advises weights with lam_d n_d / (lam_u n_u) between 1 and 4/3, n the numbers of labels.

    The mean of z is over all valid responses of a run's minibatch, which is why the scope is ``batch``; data whose rows
    have weights, as ``population``, are refused, since no weight of a row tells that of a mismatched pair. A row's loss
    is the mean over its valid responses and its weight is their number, so that every response counts once. Metrics:
    ``reference_point`` z, and ``accuracy``, the share of responses on the side of z that their label asks for.

    Reads ``log_probs``, ``ref_log_probs``, ``mismatched_log_probs``, ``mismatched_ref_log_probs``, ``desirable``
    ``[*b,k]``; runs, if any, are the first of the leading axes.

    Source: Ethayarajh et al. 2024, eq. 7 and 8.
    """

    name = "kto"
    reference = "Ethayarajh et al. 2024, eq. 7 and 8"
    requires = frozenset({"ref_log_probs", "mismatched_log_probs", "mismatched_ref_log_probs", "desirable"})
    claims = frozenset(
        {
            "bounded",
            "chosen-up-rejected-down",
            "chosen-up-rejected-down-at-the-reference",
            "depends-on-log-ratios-only",
            "every-response-counts-once",
            "labels-mirror-each-other",
            "non-negative",
            "only-the-gain-matters",
            "pull-fades-far-away",
            "reference-point-detached",
            "reference-point-not-negative",
            "sigmoid-of-the-log-ratio-at-zero",
        }
    )
    implements = "kto"
    scope = "batch"
    stacked = True
    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    lam_d: float = Field(default=1.0, gt=0, description="weight of desirable responses")
    lam_u: float = Field(default=1.0, gt=0, description="weight of undesirable responses")

    def __call__(self, batch: Rankings) -> Loss:
        if batch.desirable is None:
            raise BatchError("Rankings.desirable: this loss reads it, found None")
        valid = valid_of(batch)
        z = self._reference_point(batch, valid)
        gain = self.beta * (log_ratios(batch) - z)
        values = torch.where(batch.desirable, self.lam_d * (-gain).sigmoid(), self.lam_u * gain.sigmoid())
        right = torch.where(batch.desirable, gain > 0, gain < 0).to(gain.dtype)
        count = valid.sum(-1).to(values.dtype)
        loss, accuracy = (total(clean(x, valid)) / count.clamp(min=1) for x in (values, right))
        return Loss(loss, count, {"accuracy": accuracy, "reference_point": z[..., 0].expand_as(loss)})

    @staticmethod
    def _reference_point(batch: Rankings, valid: Tensor) -> Tensor:
        """Return z of each run, with axes of length 1 behind."""
        mismatched = given(batch.mismatched_log_probs, "mismatched_log_probs")
        ratios = clean(mismatched - given(batch.mismatched_ref_log_probs, "mismatched_ref_log_probs"), valid)
        one_run = ratios.ndim < 3
        counted, ratios = (x[None] if one_run else x for x in (valid, ratios))
        mean = total(ratios.flatten(1)) / counted.flatten(1).sum(-1).clamp(min=1)  # [runs]
        z = mean.clamp(min=0)
        return z if one_run else z.view(-1, *[1] * (batch.log_probs.ndim - 1))
