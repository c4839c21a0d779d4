"""What mutants of policy objectives are built from: one formula of advantages A, log-probabilities and log-ratios."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import PolicyObjective
from rlhf_lab.types import Loss, PolicyBatch, clean

__all__ = ["Clipping", "Score", "Sequence", "Surrogate"]


class Score(PolicyObjective):
    """A loss of advantages and log-probabilities."""

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(
            self.loss(clean(batch.advantages.detach(), batch.valid), clean(batch.log_probs, batch.valid), batch)
        )

    @abstractmethod
    def loss(self, a: Tensor, lp: Tensor, batch: PolicyBatch) -> Tensor: ...


class Surrogate(PolicyObjective):
    """A loss of advantages and log-ratios to the old policy."""

    requires = frozenset({"old_log_probs"})

    def __call__(self, batch: PolicyBatch) -> Loss:
        assert batch.old_log_probs is not None
        x = clean(batch.log_probs - batch.old_log_probs.detach(), batch.valid)
        return Loss(self.loss(clean(batch.advantages.detach(), batch.valid), x, batch))

    @abstractmethod
    def loss(self, a: Tensor, x: Tensor, batch: PolicyBatch) -> Tensor: ...


class Clipping(Surrogate):
    """A surrogate with the parameters of PPO."""

    clip: float = Field(default=0.2, ge=0, allow_inf_nan=True)
    clip_low: float | None = Field(default=None, ge=0)
    clip_high: float | None = Field(default=None, ge=0)

    @property
    def sides(self) -> tuple[float, float]:
        """Return the edges of the ratio."""
        low, high = (self.clip if x is None else x for x in (self.clip_low, self.clip_high))
        return 1 - low, 1 + high


class Sequence(Surrogate):
    """A loss of one ratio per episode."""

    scope = "episode"
    clip_low: float = Field(default=3e-4, ge=0)
    clip_high: float = Field(default=4e-4, ge=0)

    def over_episodes(self, x: Tensor, batch: PolicyBatch) -> Tensor:
        """Return the mean over each episode on each of its steps."""
        together = self.together(batch).to(x)
        return (together @ x[..., None])[..., 0] / together.sum(-1).clamp(min=1)

    def together(self, batch: PolicyBatch) -> Tensor:
        """Return which steps are of the same episode, ``[*b,t,t]``."""
        episode = batch.ends.cumsum(-1) - batch.ends.long()
        same = episode[..., :, None] == episode[..., None, :]
        return same & batch.valid[..., :, None] & batch.valid[..., None, :]

    def bounded(self, x: Tensor, a: Tensor) -> Tensor:
        """Return PPO's clipped loss for log-ratios x."""
        ratio = x.exp()
        return -torch.minimum(ratio * a, ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * a)
