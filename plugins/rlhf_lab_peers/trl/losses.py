"""TRL's token-level policy losses, per step, out of ``GRPOTrainer._compute_loss``.

That returns one number, a sum of mask times loss per token over a normaliser. So its derivative by the mask is the loss
of each token, with the peer's gradient; it is taken at a mask of 0, where the normaliser is 1. The valid steps of the
batch are the tokens of one completion.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch
from rlhf_lab_peers.limits import given, refuse_empty
from rlhf_lab_peers.trl.trainer import peer, policy_trainer, token_loss

__all__ = ["CISPO", "GRPO", "SAPO", "ClippedGRPO"]


class _Loss(PolicyObjective):
    requires = frozenset({"old_log_probs"})

    def model_post_init(self, context: Any) -> None:
        peer()


class ClippedGRPO(_Loss):
    """The clipped surrogate of TRL, which its loss types grpo, bnpo, dr_grpo, dapo and luspo share; they differ in
    aggregation.

    Calls ``GRPOTrainer._compute_loss`` with ``beta=0``, the default, and without ``delta``.

    Source: trl/trainer/grpo_trainer.py; Schulman et al. 2017, eq. 7.
    """

    name = "ppo_clip@trl"
    reference = "TRL, GRPOTrainer; Schulman et al. 2017, eq. 7"
    implements = "ppo_clip"
    conventions = {"clip": "epsilon", "clip_low": "epsilon", "clip_high": "epsilon_high"}

    epsilon: float = Field(default=0.2, ge=0, description="how far the ratio may pay off from 1")
    epsilon_high: float | None = Field(default=None, ge=0, description="the same above 1; None = epsilon")

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(_token_losses(batch, "grpo", epsilon=self.epsilon, epsilon_high=self.epsilon_high))


class GRPO(_Loss):
    """The loss of TRL's GRPO with a KL penalty: the clipped surrogate + beta · ρ · k3.

    Calls ``GRPOTrainer._compute_loss``. ``use_bias_correction_kl``, the default, multiplies the penalty by the ratio,
    which makes its gradient that of KL(π ‖ π_ref) (DeepSeek-V3.2); GRPO's paper has no such factor.

    Source: trl/trainer/grpo_trainer.py; Shao et al. 2024, eq. 3 and 4.
    """

    name = "grpo@trl"
    reference = "TRL, GRPOTrainer; Shao et al. 2024, eq. 3 and 4"
    implements = "grpo"
    conventions = {"clip": "epsilon", "clip_low": "epsilon", "clip_high": "epsilon_high"}

    epsilon: float = Field(default=0.2, ge=0, description="how far the ratio may pay off from 1")
    epsilon_high: float | None = Field(default=None, ge=0, description="the same above 1; None = epsilon")
    beta: float = Field(default=0.0, ge=0, description="weight of the penalty")
    use_bias_correction_kl: bool = Field(default=True, description="multiply the penalty by the ratio")

    def needs(self) -> frozenset[str]:
        return type(self).requires | ({"ref_log_probs"} if self.beta else frozenset())

    def __call__(self, batch: PolicyBatch) -> Loss:
        args = {"use_bias_correction_kl": self.use_bias_correction_kl}
        bounds = {"epsilon": self.epsilon, "epsilon_high": self.epsilon_high}
        return Loss(_token_losses(batch, "grpo", args=args, beta=self.beta, **bounds))


class CISPO(_Loss):
    """CISPO of TRL: −sg(min(ρ, epsilon_high)) A log π.

    Calls ``GRPOTrainer._compute_loss`` with ``loss_type="cispo"``. ``epsilon_high`` is the bound itself and not its
    distance from 1; TRL recommends 5 with this loss type, and leaves the general default of 0.2.

    Source: trl/trainer/grpo_trainer.py; MiniMax 2025 (arXiv 2506.13585), eq. 4 and 5.
    """

    name = "cispo@trl"
    reference = "TRL, GRPOTrainer; MiniMax 2025, eq. 4 and 5"
    implements = "cispo"
    conventions = {"clip_low": None, "clip_high": "epsilon_high"}

    epsilon_high: float = Field(default=0.2, ge=0, description="largest weight")

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(_token_losses(batch, "cispo", epsilon_high=self.epsilon_high))


class SAPO(_Loss):
    """Soft adaptive policy optimisation of TRL: −(4/τ) sigmoid(τ (ρ − 1)) A.

    Calls ``GRPOTrainer._compute_loss`` with ``loss_type="sapo"``.

    Source: trl/trainer/grpo_trainer.py; Gao et al. 2025 (SAPO), eq. 6.
    """

    name = "sapo@trl"
    reference = "TRL, GRPOTrainer; Gao et al. 2025 (SAPO), eq. 6"
    implements = "sapo"
    conventions = {"tau_pos": "sapo_temperature_pos", "tau_neg": "sapo_temperature_neg"}

    sapo_temperature_pos: float = Field(default=1.0, gt=0, description="temperature where the advantage is positive")
    sapo_temperature_neg: float = Field(default=1.05, gt=0, description="temperature elsewhere")

    def __call__(self, batch: PolicyBatch) -> Loss:
        args = {
            "sapo_temperature_pos": self.sapo_temperature_pos,
            "sapo_temperature_neg": self.sapo_temperature_neg,
        }
        return Loss(_token_losses(batch, "sapo", args=args))


def _token_losses(batch: PolicyBatch, loss_type: str, **options: Any) -> Tensor:
    """Return the loss of each step ``[*b,t]``, 0 where it does not count."""
    refuse_empty(batch.log_probs)
    values = torch.zeros_like(batch.log_probs)
    if not bool(batch.valid.any()):
        return values
    fields = {"old_per_token_logps": given(batch.old_log_probs, "old_log_probs")}
    if batch.ref_log_probs is not None:
        fields["ref_per_token_logps"] = batch.ref_log_probs.detach()
    inputs = {name: x[batch.valid][None] for name, x in fields.items()}  # [1, tokens]
    log_probs, advantages = batch.log_probs[batch.valid][None], batch.advantages.detach()[batch.valid][None]
    mask = torch.zeros_like(advantages, requires_grad=True)
    loss = token_loss(log_probs, mask, advantages, inputs, policy_trainer(loss_type, **options))
    (found,) = torch.autograd.grad(loss, mask, create_graph=True)
    return values.masked_scatter(batch.valid, found)
