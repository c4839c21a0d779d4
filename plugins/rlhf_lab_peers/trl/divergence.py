"""The KL penalty of TRL's GRPO."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rlhf_lab.components import KLEstimator
from rlhf_lab.types import Refused
from rlhf_lab_peers.limits import refuse_empty
from rlhf_lab_peers.trl.trainer import peer, policy_trainer, token_loss

__all__ = ["K3", "PlainK3"]


class K3(KLEstimator):
    """The KL penalty of TRL's GRPO: k3 of each token times the ratio.

    Calls ``GRPOTrainer._compute_loss`` with advantages of 0 and ``beta=1``, and differentiates by the mask (see
    ``losses``). ``use_bias_correction_kl``, the default, always weighs by ρ: a call without ``old_log_probs`` is
    refused.

    Source: trl/trainer/grpo_trainer.py; Schulman 2020, estimator k3; ρ: DeepSeek-AI 2025 (V3.2), section 3.1.
    """

    name = "k3@trl"
    reference = "TRL, GRPOTrainer; Schulman 2020, estimator k3"
    claims = frozenset({"off-policy-loss-gradient"})  # so its documentation says
    implements = "k3"

    weighted: ClassVar[bool] = True

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, log_probs: Tensor, ref_log_probs: Tensor, *, old_log_probs: Tensor | None = None) -> Tensor:
        refuse_empty(log_probs)
        if (old_log_probs is not None) != self.weighted:
            raise Refused("use_bias_correction_kl weighs by ρ, whose denominator must then be given, and only then")
        row = log_probs.reshape(1, -1)
        inputs = {"ref_per_token_logps": ref_log_probs.detach().reshape(1, -1)}
        if old_log_probs is not None:
            inputs["old_per_token_logps"] = old_log_probs.detach().reshape(1, -1)
        trained = policy_trainer("grpo", args={"use_bias_correction_kl": self.weighted}, beta=1.0)
        mask = torch.zeros_like(row, requires_grad=True)
        loss = token_loss(row, mask, torch.zeros_like(mask), inputs, trained)
        (found,) = torch.autograd.grad(loss, mask, create_graph=True)
        return found.view(log_probs.shape)


class PlainK3(K3):
    """The KL penalty of TRL's GRPO with ``use_bias_correction_kl=False``: k3 of each token.

    Calls ``GRPOTrainer._compute_loss`` as ``k3@trl`` does. Nothing weighs: a call with ``old_log_probs`` is refused.

    Source: trl/trainer/grpo_trainer.py; Schulman 2020, estimator k3.
    """

    name = "k3_plain@trl"
    claims = frozenset()
    weighted = False
