"""The bandits with the interface of Gymnasium, registered under the namespace ``rlhf_lab``."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from rlhf_lab.random import Streams
from rlhf_lab_bandit.bandits import BanditEnvironment, BernoulliBandit, ContextualBandit, GaussianBandit

__all__ = ["BanditEnv", "BernoulliBanditEnv", "ContextualBanditEnv", "register"]


class BanditEnv(gymnasium.Env[np.int64, np.int64]):
    """``rlhf_lab/Bandit-v0``; see ``GaussianBandit`` for the keyword arguments.

    Every step ends its episode. ``reset(seed=...)`` draws new arms, ``reset()`` keeps them. The observation is the
    context, and after a step the number of contexts.
    """

    component: ClassVar[type[BanditEnvironment]] = GaussianBandit
    metadata: Final = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, **fields: Any) -> None:
        self.render_mode = render_mode
        self._bandit = self.component(**fields)
        self._contexts, self._arms = self._bandit.means(Streams([0])).shape[1:]
        self.observation_space, self.action_space = Discrete(self._contexts + 1), Discrete(self._arms)
        self._means: Any = None
        self._context = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._means is None:
            self._means = self._bandit.means(Streams([int(self.np_random.integers(2**32))])).numpy()[0].copy()
        self._context = int(self.np_random.integers(self._contexts))
        return np.int64(self._context), self._info()

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        mean = float(self._means[self._context, action])
        if self._bandit.coins():
            reward = float(self.np_random.random() < mean)
        else:
            reward = mean + self._bandit.noise() * self.np_random.standard_normal()
        if self._bandit.drifting() > 0:
            self._means += self._bandit.drifting() * self.np_random.standard_normal(self._means.shape)
        self._context = self._contexts
        return np.int64(self._context), reward, True, False, self._info()

    def render(self) -> str | None:
        if self.render_mode != "ansi":
            return None
        return "\n".join("  ".join(f"{mean:+.2f}" for mean in row) for row in self._means)

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.ones(self._arms, dtype=np.int8)}


class BernoulliBanditEnv(BanditEnv):
    """``rlhf_lab/BernoulliBandit-v0``; see ``BernoulliBandit``."""

    component = BernoulliBandit


class ContextualBanditEnv(BanditEnv):
    """``rlhf_lab/ContextualBandit-v0``; see ``ContextualBandit``."""

    component = ContextualBandit


def register() -> None:
    """Register every environment of this module."""
    for env in (BanditEnv, BernoulliBanditEnv, ContextualBanditEnv):
        gymnasium.register(f"rlhf_lab/{env.__name__.removesuffix('Env')}-v0", entry_point=f"{__name__}:{env.__name__}")
