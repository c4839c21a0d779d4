"""The border to Gymnasium: components of its environments, finite worlds as such, errors where it cannot make one.

A finite world plays one episode at a time, from the same tables as the batched rollouts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Final, TypeVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from pydantic import ValidationError

from rlhf_lab.components import Component, Environment
from rlhf_lab.errors import LabError, describe
from rlhf_lab.registry import Registry, load_plugins
from rlhf_lab.training.finite import FiniteWorld
from rlhf_lab.training.walk import draw_index, tabulate

__all__ = ["FiniteEnv", "from_arguments", "making"]

_E = TypeVar("_E", bound=Environment)


@contextmanager
def making(name: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever Gymnasium or an environment's constructor raises into a ``LabError`` with id and arguments."""
    try:
        yield
    except Exception as error:
        told = f" with kwargs {kwargs}" if kwargs else ""
        raise LabError(
            f"environment.id: Gymnasium cannot make {name!r}{told}: {type(error).__name__}: {error}"
        ) from None


def from_arguments(component: type[_E], fields: Mapping[str, Any]) -> _E:
    """Return the environment component of keyword arguments, in which components may be named as in a spec.

    Raises ``LabError`` naming all errors, as for a spec.
    """
    try:
        return component.model_validate(fields, context={"registry": _Installed()})
    except ValidationError as error:
        raise LabError(describe(error, ("environment",), component.model_fields)) from None


class _Installed:
    """The catalogue of the installed plugins, which are loaded when a name is first looked up."""

    def get(self, role: str, name: str) -> type[Component]:
        return _plugins().get(role, name)


@cache
def _plugins() -> Registry:
    return load_plugins()  # once: an environment is made many times


class FiniteEnv(gymnasium.Env[np.int64, np.int64]):
    """A ``FiniteWorld`` component with the interface of ``gymnasium.Env``; its fields are the keyword arguments.

    Subclasses name the component. Observations are state numbers; ``info["action_mask"]`` (int8) tells what is legal.
    """

    component: ClassVar[type[FiniteWorld]]
    metadata: Final = {"render_modes": ["ansi"], "render_fps": 4}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = None, **fields: Any) -> None:
        self.render_mode = render_mode
        self._environment = from_arguments(self.component, fields)
        world = self._environment.world()
        states, actions = world.uniform_policy().shape
        self.observation_space, self.action_space = Discrete(states), Discrete(actions)
        self._tables = tabulate(world)
        self._legal = (
            np.ones((states, actions), dtype=np.int8) if world.legal is None else world.legal.numpy().astype(np.int8)
        )
        self._limit = self._environment.step_limit()
        self._state = 0
        self._age = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._age = draw_index(self._tables.starts, 0, self.np_random.random()), 0
        return np.int64(self._state), self._info()

    def step(self, action: Any) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(np.int64(action)) or not self._legal[self._state, action]:
            raise ValueError(f"action {action} is illegal in state {self._state}; see info['action_mask']")
        pair = self._state * self._legal.shape[1] + int(action)
        index = draw_index(self._tables.cumulative, self._tables.offsets[pair], self.np_random.random())
        reward = float(self._tables.payoffs[0, index])
        if self._environment.reward_noise > 0:
            reward += self._environment.reward_noise * self.np_random.standard_normal()
        self._state = int(self._tables.successors[index])
        self._age += 1
        terminated = bool(self._tables.terminal[self._state])
        truncated = not terminated and self._age >= self._limit
        return np.int64(self._state), reward, terminated, truncated, self._info()

    def render(self) -> str | None:
        return self._environment.text(self._state) if self.render_mode == "ansi" else None

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._legal[self._state].copy()}
