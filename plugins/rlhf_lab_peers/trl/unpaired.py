"""TRL's losses on responses labelled one by one, out of ``KTOTrainer._compute_loss``, one row of responses at a time.

That returns the mean over the responses of a micro-batch, and a row's loss is the mean over its own. The responses are
given as in ``preference``: all of a log-probability stands on one token. Those of mismatched pairs are the whole
batch's, as where it is one micro-batch; so TRL's reference point, which is of each micro-batch apart, is here of all.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.calling import default_dtype
from rlhf_lab.components import PreferenceObjective
from rlhf_lab.types import Loss, Rankings
from rlhf_lab_peers.limits import given, refuse_empty
from rlhf_lab_peers.trl.trainer import peer, trainer

__all__ = ["KTO", "UnpairedAPOZero"]


class _LabelLoss(PreferenceObjective):
    requires = frozenset({"ref_log_probs", "desirable"})
    loss_type: ClassVar[str]

    beta: float = Field(default=0.1, gt=0, description="how dear it is to leave the reference policy")
    desirable_weight: float = Field(default=1.0, gt=0, description="weight of desirable responses")
    undesirable_weight: float = Field(default=1.0, gt=0, description="weight of undesirable responses")

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: Rankings) -> Loss:
        refuse_empty(batch.log_probs)
        policy, reference = batch.log_probs, given(batch.ref_log_probs, "ref_log_probs")
        desirable = given(batch.desirable, "desirable")
        valid = torch.ones_like(desirable) if batch.valid is None else batch.valid
        mismatched = self._mismatched(batch, valid)
        counts, rows = valid.sum(-1), valid.any(-1)
        values = torch.zeros_like(policy[..., 0])
        if bool(rows.any()):
            found = [
                self._loss(own[counted], ref[counted], label[counted], mismatched)
                for own, ref, label, counted in zip(
                    *(x[rows] for x in (policy, reference, desirable, valid)), strict=True
                )
            ]
            values = values.masked_scatter(rows, torch.stack(found))
        return Loss(values, weights=counts.to(values.dtype))

    def _mismatched(self, batch: Rankings, valid: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return log-probabilities of mismatched responses ``[n]`` under both policies, if the loss reads them."""
        return None

    def _loss(
        self, log_probs: Tensor, ref_log_probs: Tensor, desirable: Tensor, mismatched: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Return the loss of a micro-batch of responses ``[n]``."""
        rows = len(log_probs)
        zeros = torch.zeros(rows, 1, dtype=log_probs.dtype)
        outputs = SimpleNamespace(log_probs=log_probs[:, None], entropy=zeros, mean_logits=zeros)
        mask = torch.tensor([0, 1]).expand(rows, 2)  # a token of the prompt in front
        inputs = {
            "input_ids": torch.zeros_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": desirable,
            "ref_logps": ref_log_probs,
        }
        if mismatched is not None:
            inputs["ref_KL_logps"] = mismatched[1]
        trained = trainer(
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
            loss_type=self.loss_type,
            calculate_KL=mismatched is not None,
            precompute_ref_logps=True,
            _compute_kl_logps=lambda *_: None if mismatched is None else mismatched[0],
            _total_train_tokens=0,
            _tp_size=1,
        )
        with default_dtype(log_probs.dtype):
            found: Tensor = peer().KTOTrainer._compute_loss(trained, lambda **_: outputs, inputs, False)
        return found


class KTO(_LabelLoss):
    """KTO: 1 − σ(β (a − z)) of a desirable and 1 − σ(β (z − a)) of an undesirable response, a = log(π/π_ref).

    z is the mean of log(π/π_ref) over the batch's mismatched responses, at least 0.

    Source: trl/trainer/kto_trainer.py; Ethayarajh et al. 2024, eq. 7 and 8.
    """

    name = "kto@trl"
    reference = "TRL, KTOTrainer; Ethayarajh et al. 2024, eq. 7 and 8"
    requires = frozenset({"ref_log_probs", "mismatched_log_probs", "mismatched_ref_log_probs", "desirable"})
    scope = "batch"
    loss_type = "kto"
    implements = "kto"
    conventions = {"lam_d": "desirable_weight", "lam_u": "undesirable_weight"}

    def _mismatched(self, batch: Rankings, valid: Tensor) -> tuple[Tensor, Tensor]:
        policy = given(batch.mismatched_log_probs, "mismatched_log_probs")
        reference = given(batch.mismatched_ref_log_probs, "mismatched_ref_log_probs")
        return policy[valid], reference[valid]


class UnpairedAPOZero(_LabelLoss):
    """APO-zero for single responses: 1 − σ(β a) of a desirable and σ(β a) of an undesirable one, a = log(π/π_ref).

    No definition of record has this name; the claims are those of APO-zero that single responses have too, and that
    labels mirror each other, which its formula says.

    Source: trl/trainer/kto_trainer.py, loss_type="apo_zero_unpaired"; D'Oosterlinck et al. 2024, eq. 7.
    """

    name = "apo_zero_unpaired@trl"
    reference = "TRL, KTOTrainer; D'Oosterlinck et al. 2024, eq. 7"
    claims = frozenset(
        {
            *("beta-is-a-unit", "bounded", "depends-on-log-ratios-only", "every-response-counts-once"),
            *("gradient-of-its-value", "labels-mirror-each-other", "non-negative", "responses-do-not-mix"),
        }
    )
    loss_type = "apo_zero_unpaired"
    conventions = {"lam_d": "desirable_weight", "lam_u": "undesirable_weight"}
