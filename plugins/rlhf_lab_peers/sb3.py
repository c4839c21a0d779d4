"""Stable-Baselines3: the rollout buffer's GAE."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from pydantic import Field

from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator, Component
from rlhf_lab.types import Advantages, Trajectories
from rlhf_lab_peers.installed import require
from rlhf_lab_peers.limits import given, refuse_invalid_steps

__all__ = ["RolloutBufferGAE", "rlhf_lab_components"]

require("stable_baselines3", "stable-baselines3")


class RolloutBufferGAE(AdvantageEstimator):
    """Generalised advantage estimation of Stable-Baselines3, on one environment per row.

    Calls ``RolloutBuffer.compute_returns_and_advantage``. The buffer knows one kind of end: where a step was only
    truncated, γ·V(s') is added to its reward first, as ``OnPolicyAlgorithm.collect_rollouts`` does. Its arrays are
    given the batch's dtype, so that float32, which it makes them of, is not judged. No mask: other steps are refused.

    Source: stable_baselines3/common/buffers.py; Schulman et al. 2016, eq. 16.
    """

    name = "gae@sb3"
    reference = "Stable-Baselines3, RolloutBuffer; Schulman et al. 2016, eq. 16"
    requires = frozenset({"values", "next_values"})
    implements = "gae"
    conventions = {"lam": "gae_lambda"}

    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per step")
    gae_lambda: float = Field(default=1.0, ge=0, le=1, description="weight of longer returns")

    def model_post_init(self, context: Any) -> None:
        _buffer_class()

    def __call__(self, batch: Trajectories) -> Advantages:
        refuse_invalid_steps(batch.valid, "a rollout buffer")
        steps = batch.rewards.shape[-1]
        only_truncated = (batch.truncated & ~batch.terminated).reshape(-1, steps)
        done = (batch.truncated | batch.terminated).reshape(-1, steps)
        behind = given(batch.next_values, "next_values").reshape(-1, steps)
        rewards = batch.rewards.reshape(-1, steps) + self.gamma * behind.where(only_truncated, 0)
        starts = done.roll(1, dims=1)  # whatever the first step is told, it is never read

        buffer = _buffer(steps, len(rewards), self.gamma, self.gae_lambda)
        buffer.rewards = rewards.numpy().T  # [t, rows]
        buffer.values = given(batch.values, "values").reshape(-1, steps).numpy().T
        buffer.episode_starts = starts.to(rewards.dtype).numpy().T
        buffer.advantages = np.empty_like(buffer.rewards)
        buffer.compute_returns_and_advantage(last_values=behind[:, -1], dones=done[:, -1].numpy())

        shape = batch.rewards.shape
        return Advantages(
            rewards.new_tensor(buffer.advantages.T).view(shape), rewards.new_tensor(buffer.returns.T).view(shape)
        )


@cache
def _buffer_class() -> Any:
    from stable_baselines3.common.buffers import RolloutBuffer

    return RolloutBuffer


def _buffer(steps: int, rows: int, gamma: float, gae_lambda: float) -> Any:
    from gymnasium.spaces import Discrete

    return _buffer_class()(
        steps, Discrete(1), Discrete(1), device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=rows
    )


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components that wrap Stable-Baselines3."""
    return [RolloutBufferGAE]
