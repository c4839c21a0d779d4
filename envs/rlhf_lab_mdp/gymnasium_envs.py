"""The environments of this package with the interface of Gymnasium, registered under the namespace ``rlhf_lab``."""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlhf_lab.training.adapter import FiniteEnv
from rlhf_lab_mdp.cartpole import LARGEST_ANGLE, LARGEST_POSITION, START, CartPole, failed, physics
from rlhf_lab_mdp.grid import GridWorld
from rlhf_lab_mdp.walks import RandomWalk, ShortCorridor

__all__ = ["CartPoleEnv", "GridWorldEnv", "RandomWalkEnv", "ShortCorridorEnv", "register"]


class RandomWalkEnv(FiniteEnv):
    """``rlhf_lab/RandomWalk-v0``; see ``RandomWalk`` for the keyword arguments."""

    component = RandomWalk


class ShortCorridorEnv(FiniteEnv):
    """``rlhf_lab/ShortCorridor-v0``; see ``ShortCorridor``."""

    component = ShortCorridor


class GridWorldEnv(FiniteEnv):
    """``rlhf_lab/GridWorld-v0``; see ``GridWorld``."""

    component = GridWorld


class CartPoleEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """``rlhf_lab/CartPole-v0``: the physics of ``CartPole``. Speeds have no bounds but those of float32."""

    metadata: Final = {"render_modes": ["ansi"], "render_fps": 50}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, **fields: Any) -> None:
        self.render_mode = render_mode
        self._limit = CartPole(**fields).max_steps
        high = np.array([2 * LARGEST_POSITION, np.inf, 2 * LARGEST_ANGLE, np.inf]).clip(max=np.finfo(np.float32).max)
        self.observation_space = Box(-high.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self.action_space = Discrete(2)
        self._state = np.zeros(4)
        self._age = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._age = self.np_random.uniform(-START, START, 4), 0
        return self._state.astype(np.float32), self._info()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        x, speed, angle, spin = self._state
        self._state = np.array(physics(x, speed, angle, spin, bool(action == 1)))
        self._age += 1
        terminated = bool(failed(self._state[0], self._state[2]))
        truncated = not terminated and self._age >= self._limit
        return self._state.astype(np.float32), 1.0, terminated, truncated, self._info()

    def render(self) -> str | None:
        if self.render_mode != "ansi":
            return None
        return f"position {self._state[0]:+.3f}  angle {np.degrees(self._state[2]):+.1f}°  step {self._age}"

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.ones(2, dtype=np.int8)}


def register() -> None:
    """Register every environment of this module."""
    for env in (RandomWalkEnv, ShortCorridorEnv, GridWorldEnv, CartPoleEnv):
        gymnasium.register(f"rlhf_lab/{env.__name__.removesuffix('Env')}-v0", entry_point=f"{__name__}:{env.__name__}")
