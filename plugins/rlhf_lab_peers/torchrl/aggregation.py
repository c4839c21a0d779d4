"""How TorchRL's losses for language models become one number: the weight that each token gets in it.

The weights are read off the peer's loss: where the ratio is 1 and the advantage −1, its derivative by a token's
log-probability is the token's weight. A row is one response.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.components import Aggregation
from rlhf_lab.types import Weights
from rlhf_lab_peers.limits import responses
from rlhf_lab_peers.torchrl.divergences import penalty
from rlhf_lab_peers.torchrl.losses import Actor, Told, peer

__all__ = ["PenaltyMean", "PromptMean", "TokenMean"]


class TokenMean(Aggregation):
    """The default aggregation of TorchRL's losses for language models: the mean over all tokens of the batch.

    Calls ``GRPOLoss`` with ``aggregation="token_mean"``.

    Source: torchrl/objectives/llm/grpo.py; Yu et al. 2025 (DAPO), eq. 12.
    """

    name = "token_mean@torchrl"
    reference = "TorchRL, GRPOLoss; Yu et al. 2025 (DAPO), eq. 12"
    scope = "batch"
    implements = "token_mean"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _weights(valid, ends, "token_mean")


class PromptMean(Aggregation):
    """The other aggregation of TorchRL's losses for language models: the mean over rows of their mean over tokens.

    Calls ``GRPOLoss`` with ``aggregation="prompt_mean"``.

    Source: torchrl/objectives/llm/grpo.py; Shao et al. 2024 (GRPO), eq. 3.
    """

    name = "sequence_mean@torchrl"
    reference = "TorchRL, GRPOLoss; Shao et al. 2024 (GRPO), eq. 3"
    scope = "batch"
    implements = "sequence_mean"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        return _weights(valid, ends, "prompt_mean")


class PenaltyMean(Aggregation):
    """How the KL penalty of TorchRL's losses for language models is averaged, whatever their aggregation.

    Calls ``GRPOLoss`` with ``kl_to_ref_coeff=1``. At log(π_ref/π) = log 2 the derivative of k3 by log π_ref is 1, so
    that the derivative of the penalty by a token's log π_ref is the token's weight.

    Source: torchrl/objectives/llm/grpo.py.
    """

    name = "kl_token_mean@torchrl"
    reference = "TorchRL, GRPOLoss"
    scope = "batch"
    implements = "token_mean"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, valid: Tensor, ends: Tensor) -> Weights:
        responses(valid, ends)
        policy = torch.full(valid.shape, -1.0, dtype=torch.float64)
        reference = (policy + math.log(2)).requires_grad_()
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(penalty(policy, reference, valid), reference)
        return normalised(slopes, valid)


def normalised(shares: Tensor, valid: Tensor) -> Weights:
    """Return weights whose total is 1, as that of a loss that is already a mean."""
    return Weights(shares.masked_fill(~valid, 0), valid.double() / valid.sum())


def _weights(valid: Tensor, ends: Tensor, aggregation: str) -> Weights:
    responses(valid, ends)
    policy = torch.full(valid.shape, -1.0, dtype=torch.float64, requires_grad=True)
    data = {
        "advantage": -torch.ones_like(policy).unsqueeze(-1).detach(),
        ("log_probs", "full"): policy.detach(),
        ("tokens", "full"): torch.zeros_like(policy),
    }
    with torch.enable_grad():
        loss = peer().GRPOLoss(Actor(Told(policy, valid)), entropy_bonus=False, aggregation=aggregation)
        (slopes,) = torch.autograd.grad(loss(peer().TensorDict(data, valid.shape)).loss_objective.sum(), policy)
    return normalised(slopes, valid)
