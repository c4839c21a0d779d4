"""How TRL's loss types make one number of the losses of tokens: the weight that each token gets in it.

The weights are read off ``GRPOTrainer._compute_loss``: where the ratio is 1 and the advantage −1, its derivative by a
token's log-probability is the token's weight. A row is one completion. Loss types that normalise within a micro-batch
are of scope batch: TRL averages their micro-batches, which need not be the loss of the whole.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Aggregation, Scope
from rlhf_lab.types import Weights
from rlhf_lab_peers.limits import responses
from rlhf_lab_peers.trl.trainer import peer, policy_trainer, token_loss

__all__ = ["BNPO", "DAPO", "GRPO", "LUSPO", "DrGRPO"]


class _LossType(Aggregation):
    scope: ClassVar[Scope] = "batch"

    def model_post_init(self, context: Any) -> None:
        peer()


class DAPO(_LossType):
    """The default loss type of TRL, dapo: the mean over the tokens of all micro-batches of an optimiser step.

    Calls ``GRPOTrainer._compute_loss`` with ``num_items_in_batch=1``; the number of tokens is the total.

    Source: trl/trainer/grpo_trainer.py; Yu et al. 2025 (DAPO), eq. 12.
    """

    name = "token_mean@trl"
    reference = "TRL, GRPOTrainer; Yu et al. 2025 (DAPO), eq. 12"
    scope = "step"
    implements = "token_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        rows, lasts = (
            x.reshape(-1, valid.shape[-1]) for x in (valid, ends)
        )  # tokens weigh apart, so runs may be joined
        return Weights(_weights(rows, lasts, "dapo").view(valid.shape), valid.double())


class BNPO(_LossType):
    """The loss type bnpo of TRL: the mean over the tokens of a micro-batch.

    Calls ``GRPOTrainer._compute_loss``.

    Source: trl/trainer/grpo_trainer.py.
    """

    name = "token_mean_local@trl"
    reference = "TRL, GRPOTrainer"
    implements = "token_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _mean(valid, ends, "bnpo")


class GRPO(_LossType):
    """The loss type grpo of TRL: the mean over completions of their mean over tokens.

    Calls ``GRPOTrainer._compute_loss``.

    Source: trl/trainer/grpo_trainer.py; Shao et al. 2024 (GRPO), eq. 3.
    """

    name = "sequence_mean@trl"
    reference = "TRL, GRPOTrainer; Shao et al. 2024 (GRPO), eq. 3"
    implements = "sequence_mean"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _mean(valid, ends, "grpo")


class LUSPO(_LossType):
    """The loss type luspo of TRL: the mean over completions of their sum over tokens.

    Calls ``GRPOTrainer._compute_loss``.

    Source: trl/trainer/grpo_trainer.py; arXiv 2602.05261.
    """

    name = "sequence_sum@trl"
    reference = "TRL, GRPOTrainer; arXiv 2602.05261"
    implements = "sequence_sum"

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _mean(valid, ends, "luspo")


class DrGRPO(_LossType):
    """The loss type dr_grpo of TRL: the sum over tokens, divided by the number of completions and a fixed length.

    Calls ``GRPOTrainer._compute_loss``.

    Source: trl/trainer/grpo_trainer.py; Liu et al. 2025 (Dr. GRPO), section 3.2.
    """

    name = "constant@trl"
    reference = "TRL, GRPOTrainer; Liu et al. 2025 (Dr. GRPO), section 3.2"
    implements = "constant"
    conventions = {"length": "max_completion_length"}

    max_completion_length: int = Field(default=512, ge=1, description="divisor of each completion's summed loss")

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _mean(valid, ends, "dr_grpo", max_completion_length=self.max_completion_length)


def _mean(valid: Tensor, ends: Tensor, loss_type: str, **options: Any) -> Weights:
    """Return weights whose total is 1, as of a loss that is divided already."""
    return Weights(_weights(valid, ends, loss_type, **options), valid.double() / valid.sum())


def _weights(valid: Tensor, ends: Tensor, loss_type: str, **options: Any) -> Tensor:
    """Return the derivative of the loss by each token's log-probability, ``[rows, t]``."""
    responses(valid, ends)
    log_probs = torch.full(valid.shape, -1.0, dtype=torch.float64, requires_grad=True)
    advantages = torch.full(valid.shape[:1], -1.0, dtype=torch.float64)
    loss = token_loss(log_probs, valid.double(), advantages, {}, policy_trainer(loss_type, **options))
    (found,) = torch.autograd.grad(loss, log_probs)
    return found
