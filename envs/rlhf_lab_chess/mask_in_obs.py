"""Wrappers that put the mask into the observation, the form of PettingZoo and RLlib."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, flatdim
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from rlhf_lab.errors import LabError

__all__ = ["MaskInObs", "VectorMaskInObs"]


class MaskInObs(gymnasium.Wrapper[dict[str, Any], Any, Any, Any], RecordConstructorArgs):
    """Observations become ``{"observation": ..., "action_mask": info["action_mask"]}``; ``info`` stays as it is.

    Raises ``LabError`` where actions are not numbered from 0.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = _space(env.observation_space, env.action_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return _both(observation, info["action_mask"]), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _both(observation, info["action_mask"]), reward, terminated, truncated, info


class VectorMaskInObs(VectorWrapper[dict[str, Any], Any, Any, Any, Any]):
    """``MaskInObs`` of a vector environment, whatever its autoreset mode; ``final_obs`` gets its own masks.

    Raises ``LabError`` where actions are not numbered from 0.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        space = _space(env.single_observation_space, env.single_action_space)
        self.single_observation_space, self.observation_space = space, batch_space(space, env.num_envs)
        self._masks = np.zeros((env.num_envs, flatdim(space["action_mask"])), dtype=np.int8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observations, info = self.env.reset(seed=seed, options=options)
        return self._with_masks(observations, info), info

    def step(self, actions: Any) -> tuple[dict[str, Any], Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        for row in np.flatnonzero(info.get("_final_obs", [])).tolist():
            info["final_obs"][row] = _both(info["final_obs"][row], info["final_info"]["action_mask"][row])
        return self._with_masks(observations, info), rewards, terminated, truncated, info

    def _with_masks(self, observations: Any, info: dict[str, Any]) -> dict[str, Any]:
        there = info["_action_mask"]  # a reset of some games tells of those only
        self._masks[there] = info["action_mask"][there]
        return _both(observations, self._masks.copy())


def _space(observation: gymnasium.Space[Any], action: gymnasium.Space[Any]) -> Dict:
    if not isinstance(action, Discrete) or action.start != 0:
        raise LabError(f"MaskInObs: actions must be Discrete from 0 to have a mask, found {action}")
    return Dict({"observation": observation, "action_mask": Box(0, 1, (int(action.n),), np.int8)})


def _both(observation: Any, mask: Any) -> dict[str, Any]:
    return {"observation": observation, "action_mask": mask}
