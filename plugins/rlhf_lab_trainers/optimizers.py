"""Torch's optimisers as components. Both are elementwise, so that runs stacked in one tensor never mix."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from rlhf_lab.components import Optimizer

__all__ = ["SGD", "Adam"]


class _Torch(Optimizer):
    """What both share: two learning rates and a schedule."""

    lr: float = Field(default=1e-3, gt=0, le=1e30, description="learning rate")
    critic_lr: float | None = Field(
        default=None, gt=0, le=1e30, description="learning rate of the critic's weights; default: lr"
    )
    schedule: Literal["constant", "linear"] = Field(
        default="constant", description="constant, or falling in a straight line to 0 at the end of the budget"
    )

    def rate(self, progress: float) -> float:
        """Return 1, or the part of the budget that is left."""
        return 1.0 - progress if self.schedule == "linear" else 1.0

    def _groups(self, actor: Any) -> list[dict[str, Any]]:
        named = list(actor.named_parameters())
        critic = [p for name, p in named if name.startswith("critic")]
        others = [p for name, p in named if not name.startswith("critic")]
        groups = [{"params": others, "lr": self.lr}, {"params": critic, "lr": self.critic_lr or self.lr}]
        return [group for group in groups if group["params"]]


class SGD(_Torch):
    """Gradient descent: theta <- theta - lr g; with momentum mu, v <- mu v + g and theta <- theta - lr v."""

    name = "sgd"
    reference = "Robbins and Monro 1951"
    momentum: float = Field(default=0.0, ge=0, lt=1, description="weight of past gradients")

    def remembers(self) -> bool:
        """Return whether there is momentum."""
        return self.momentum > 0

    def build(self, actor: Any) -> torch.optim.Optimizer:
        """Return torch's SGD over the actor's weights."""
        return torch.optim.SGD(self._groups(actor), lr=self.lr, momentum=self.momentum)


class Adam(_Torch):
    """Adam, with the epsilon that PPO implementations use (1e-5; torch's own is 1e-8)."""

    name = "adam"
    reference = "Kingma and Ba 2015, algorithm 1"
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the second moment")
    eps: float = Field(default=1e-5, gt=0, description="added to the root of the second moment")

    def build(self, actor: Any) -> torch.optim.Optimizer:
        """Return torch's Adam over the actor's weights."""
        return torch.optim.Adam(self._groups(actor), lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps)
