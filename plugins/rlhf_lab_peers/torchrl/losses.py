"""TorchRL's policy losses, per step: its loss modules without reduction, on an actor that tells log-probabilities.

The actor is a stand-in: its distribution answers ``log_prob`` with the batch's own numbers, so that the loss is the
peer's and the log-probabilities are ours. No entropy bonus, no critic. Clip thresholds are buffers, which are float32
in TorchRL; they are set to the batch's dtype, as a schedule may set them, so that their rounding is not judged.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch
from rlhf_lab_peers.limits import given, refuse_empty

__all__ = ["CISPO", "ClipPPO", "GRPOClip", "UnclippedPPO", "peer"]


class UnclippedPPO(PolicyObjective):
    """The unclipped surrogate of TorchRL: −ρ A.

    Calls ``PPOLoss`` with ``reduction="none"``; steps that do not count are told by ``("collector", "mask")``.

    Source: torchrl/objectives/ppo.py; Schulman et al. 2017, eq. 6.
    """

    name = "importance_weighted@torchrl"
    reference = "TorchRL, PPOLoss; Schulman et al. 2017, eq. 6"
    requires = frozenset({"old_log_probs"})
    implements = "importance_weighted"

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(_step_losses(peer().PPOLoss, batch, {}))


class ClipPPO(PolicyObjective):
    """The clipped surrogate of TorchRL: −min(ρ A, clip(ρ, 1 − ε, 1 + ε) A).

    Calls ``ClipPPOLoss`` with ``reduction="none"``; steps that do not count are told by
    ``("collector", "mask")``. It bounds log ρ by log(1 ± ε), hence ε < 1.

    Source: torchrl/objectives/ppo.py; Schulman et al. 2017, eq. 7.
    """

    name = "ppo_clip@torchrl"
    reference = "TorchRL, ClipPPOLoss; Schulman et al. 2017, eq. 7"
    requires = frozenset({"old_log_probs"})
    implements = "ppo_clip"
    conventions = {"clip": "clip_epsilon"}

    clip_epsilon: float = Field(default=0.2, ge=0, lt=1, description="how far the ratio may pay off from 1")

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: PolicyBatch) -> Loss:
        epsilon = batch.log_probs.new_tensor(self.clip_epsilon)
        return Loss(_step_losses(peer().ClipPPOLoss, batch, {"clip_epsilon": epsilon}))


class GRPOClip(PolicyObjective):
    """The clipped surrogate of TorchRL's losses for language models, per token.

    Calls ``GRPOLoss`` with ``aggregation="none"``; the actor's distribution tells which tokens count. No KL penalty.

    Source: torchrl/objectives/llm/grpo.py; Shao et al. 2024, eq. 3.
    """

    name = "ppo_clip_llm@torchrl"
    reference = "TorchRL, GRPOLoss; Shao et al. 2024, eq. 3"
    requires = frozenset({"old_log_probs"})
    implements = "ppo_clip"
    conventions = {"clip": "clip_epsilon"}

    clip_epsilon: float = Field(default=0.2, ge=0, lt=1, description="how far the ratio may pay off from 1")

    def model_post_init(self, context: Any) -> None:
        peer()

    def __call__(self, batch: PolicyBatch) -> Loss:
        epsilon = batch.log_probs.new_tensor(self.clip_epsilon)
        bounds = {"clip_epsilon_low": epsilon, "clip_epsilon_high": epsilon}
        return Loss(_token_losses(peer().GRPOLoss, batch, bounds))


class CISPO(GRPOClip):
    """CISPO of TorchRL: −clip(ρ, 1 − ε, 1 + ε) A, differentiated through the clipped ratio.

    Calls ``CISPOLoss`` with ``aggregation="none"``. The paper stops the gradient at the clipped ratio and multiplies by
    log π, so that a clipped token still learns; here its gradient is 0.

    Source: torchrl/objectives/llm/grpo.py; MiniMax 2025 (arXiv 2506.13585), eq. 4.
    """

    name = "cispo@torchrl"
    reference = "TorchRL, CISPOLoss; MiniMax 2025, eq. 4"
    implements = "cispo"
    conventions = {"clip_low": "clip_epsilon", "clip_high": "clip_epsilon"}

    def __call__(self, batch: PolicyBatch) -> Loss:
        epsilon = batch.log_probs.new_tensor(self.clip_epsilon)
        bounds = {"clip_epsilon_low": epsilon, "clip_epsilon_high": epsilon}
        return Loss(_token_losses(peer().CISPOLoss, batch, bounds))


class Told:
    """A distribution whose log-probabilities were told, of tokens that count where ``mask``."""

    def __init__(self, log_probs: Tensor, mask: Tensor) -> None:
        self.log_probs = log_probs
        self.mask = mask

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_probs


class Actor(torch.nn.Module):
    """A stand-in for an actor network, with the distribution that it was given."""

    def __init__(self, distribution: Any) -> None:
        super().__init__()
        self.distribution = distribution
        self.in_keys: list[str] = []

    def get_dist(self, tensordict: Any, **_: Any) -> Any:
        return self.distribution


def _step_losses(module: Any, batch: PolicyBatch, buffers: dict[str, Tensor]) -> Tensor:
    """Return the losses of a loss module for any actor, ``[*b,t]``."""
    refuse_empty(batch.log_probs)
    loss = module(Actor(Told(batch.log_probs, batch.valid)), entropy_bonus=False, reduction="none", functional=False)
    for name, value in buffers.items():
        setattr(loss, name, value)
    loss.set_keys(sample_log_prob="sample_log_prob", action="action")
    data = peer().TensorDict(
        {
            "advantage": given(batch.advantages, "advantages").unsqueeze(-1),
            "sample_log_prob": given(batch.old_log_probs, "old_log_probs"),
            "action": torch.zeros_like(batch.log_probs),
            ("collector", "mask"): batch.valid,
        },
        batch.log_probs.shape,
    )
    found: Tensor = loss(data)["loss_objective"]
    return found


def _token_losses(module: Any, batch: PolicyBatch, buffers: dict[str, Tensor]) -> Tensor:
    """Return the losses of a loss module for language models, ``[*b,t]``."""
    refuse_empty(batch.log_probs)
    loss = module(Actor(Told(batch.log_probs, batch.valid)), entropy_bonus=False, aggregation="none")
    for name, value in buffers.items():
        setattr(loss, name, value)
    data = peer().TensorDict(
        {
            "advantage": given(batch.advantages, "advantages").unsqueeze(-1),
            ("log_probs", "full"): given(batch.old_log_probs, "old_log_probs"),
            ("tokens", "full"): torch.zeros_like(batch.log_probs),
        },
        batch.log_probs.shape,
    )
    found: Tensor = loss(data).loss_objective.squeeze(-1)
    return found


@cache
def peer() -> Any:
    """Return TorchRL's loss modules and its container, as one namespace."""
    from types import SimpleNamespace

    from tensordict import TensorDict
    from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss, PPOLoss
    from torchrl.objectives.llm import CISPOLoss, GRPOLoss

    return SimpleNamespace(
        TensorDict=TensorDict,
        ClipPPOLoss=ClipPPOLoss,
        KLPENPPOLoss=KLPENPPOLoss,
        PPOLoss=PPOLoss,
        CISPOLoss=CISPOLoss,
        GRPOLoss=GRPOLoss,
    )
