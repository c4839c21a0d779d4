"""The cart pole as a batched environment, equal step for step to Gymnasium's ``CartPole-v1``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numba
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Environment
from rlhf_lab.random import Streams, philox, uniform
from rlhf_lab.training.protocols import Actor, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.stepped import Step, fill_uniforms, record

__all__ = ["BuiltCartPole", "CartPole", "failed", "physics"]

LARGEST_POSITION: Final = 2.4
LARGEST_ANGLE: Final = 12 * 2 * math.pi / 360
START: Final = 0.05  # each of the four numbers starts uniformly in (-START, START)
_GRAVITY: Final = 9.8
_POLE_MASS: Final = 0.1
_TOTAL_MASS: Final = _POLE_MASS + 1.0
_HALF_LENGTH: Final = 0.5
_POLE_MASS_LENGTH: Final = _POLE_MASS * _HALF_LENGTH
_FORCE: Final = 10.0
_SECONDS: Final = 0.02
_OVER: Final = -1  # age of a row whose only episode is over
_START_STREAM: Final = np.uint64(1)  # odd last words of the counter: apart from those of ``fill_uniforms``


@numba.njit(cache=True)
def physics(x: float, speed: float, angle: float, spin: float, right: bool) -> tuple[float, float, float, float]:
    """Return position, speed, angle and angular speed after one Euler step of 0.02 s with a push of 10 N.

    The operations stand in Gymnasium's order, so that rounding agrees too.
    """
    force = _FORCE if right else -_FORCE
    cosine, sine = math.cos(angle), math.sin(angle)
    pull = (force + _POLE_MASS_LENGTH * (spin * spin) * sine) / _TOTAL_MASS
    turn = (_GRAVITY * sine - cosine * pull) / (
        _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * (cosine * cosine) / _TOTAL_MASS)
    )
    push = pull - _POLE_MASS_LENGTH * turn * cosine / _TOTAL_MASS
    return x + _SECONDS * speed, speed + _SECONDS * push, angle + _SECONDS * spin, spin + _SECONDS * turn


@numba.njit(cache=True)
def failed(x: float, angle: float) -> bool:
    """Return whether the cart has left the track or the pole has fallen."""
    return x < -LARGEST_POSITION or x > LARGEST_POSITION or angle < -LARGEST_ANGLE or angle > LARGEST_ANGLE


@numba.njit(cache=True)
def _start(state: Any, row: int, count: int, collect: int, k0: Any, k1: Any) -> None:
    words = philox(np.uint64(row), np.uint64(count), np.uint64(collect), _START_STREAM, k0, k1)
    for i in range(4):
        state[i] = START * (2 * uniform(words[i]) - 1)


@numba.njit(cache=True)
def _start_all(state: Any, keys: Any, collect: int) -> None:
    for run in range(state.shape[0]):
        for row in range(state.shape[1]):
            _start(state[run, row], row, 0, collect, keys[run, 0], keys[run, 1])


@numba.njit(cache=True)
def _advance(
    state: Any, age: Any, counts: Any, keys: Any, actions: Any, collect: int, limit: int, restart: bool,
    terminated: Any, truncated: Any, valid: Any, finals: Any,
) -> None:  # fmt: skip
    runs, rows = age.shape
    for run in range(runs):
        for row in range(rows):
            if age[run, row] == _OVER:
                continue
            now = state[run, row]
            x, speed, angle, spin = physics(now[0], now[1], now[2], now[3], actions[run, row] == 1)
            now[0], now[1], now[2], now[3] = x, speed, angle, spin
            for i in range(4):
                finals[run, row, i] = now[i]
            age[run, row] += 1
            counts[run, row] += 1
            valid[run, row] = True
            terminated[run, row] = failed(x, angle)
            truncated[run, row] = not terminated[run, row] and age[run, row] >= limit
            if terminated[run, row] or truncated[run, row]:
                age[run, row] = 0 if restart else _OVER
                if restart:
                    _start(now, row, counts[run, row], collect, keys[run, 0], keys[run, 1])


class _Poles:
    """Rows of cart poles; see ``Rows``. ``collect`` 0 restarts a row that ends; others number the whole episodes."""

    def __init__(self, runs: int, rows: int, keys: Any, limit: int, collect: int) -> None:
        self.state = np.empty((runs, rows, 4))
        self.age = np.zeros((runs, rows), dtype=np.int64)
        self.counts = np.zeros((runs, rows), dtype=np.int64)
        self._keys, self._limit, self._collect = keys, limit, collect
        _start_all(self.state, keys, collect)

    def observe(self) -> tuple[Any, Any, None]:
        uniforms = np.empty((*self.age.shape, 1))
        fill_uniforms(uniforms, self._keys, self.counts, self._collect)
        return self.state.astype(np.float32), uniforms[..., 0], None

    def step(self, actions: Any) -> Step:
        shape = self.age.shape
        terminated, truncated, valid = (np.zeros(shape, dtype=np.bool_) for _ in range(3))
        finals = np.zeros((*shape, 4), dtype=np.float32)
        _advance(
            self.state, self.age, self.counts, self._keys, actions, self._collect, self._limit, self._collect == 0,
            terminated, truncated, valid, finals,
        )  # fmt: skip
        return Step(valid.astype(np.float32), terminated, truncated, valid, finals)

    def over(self) -> bool:
        return bool((self.age == _OVER).all())


class BuiltCartPole:
    """``runs x envs`` cart poles in progress; see ``BuiltEnvironment``. Whole episodes come one per row."""

    resumable = True

    def __init__(self, runs: int, envs: int, streams: Streams, limit: int) -> None:
        self.spaces = Spaces(2, observation=(4,))
        self._keys, self._limit, self._envs, self._runs = streams["steps"].keys, limit, envs, runs
        self._collects = 0  # of whole episodes so far
        self._poles = _Poles(runs, envs, self._keys, limit, 0)

    def exact(self) -> None:
        """Return None: the truth is not computable here."""
        return None

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``."""
        if size.unit == "steps":
            return record(actor, self._poles, size.count)
        self._collects += 1
        fresh = _Poles(self._runs, self._envs * size.count, self._keys, self._limit, self._collects)
        return record(actor, fresh, None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the poles in progress, and the counters of the random numbers."""
        poles = self._poles
        found = {"state": poles.state, "age": poles.age, "counts": poles.counts}
        return {
            "collects": torch.tensor(self._collects),
            **{name: torch.from_numpy(array.copy()) for name, array in found.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._collects = int(state["collects"])
        for name in ("state", "age", "counts"):
            setattr(self._poles, name, state[name].numpy().copy())


class CartPole(Environment):
    """A pole on a cart that is pushed left (0) or right (1); +1 for every step, the last one too.

    Observation: position, speed, angle, angular speed. An episode ends when the cart leaves ±2.4 or the pole ±12°, and
    is truncated after ``max_steps``. Observations are float32 and the physics is float64, as in Gymnasium.

    Source: Barto, Sutton and Anderson 1983; Gymnasium, ``CartPole-v1``.
    """

    name = "cartpole"
    reference = "Barto, Sutton and Anderson 1983; Gymnasium CartPole-v1"
    provides = frozenset({"log_probs"})
    max_steps: int = Field(default=500, ge=1, description="steps after which an episode is truncated")

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltCartPole:
        """Return ``runs x envs`` cart poles at the start of an episode."""
        return BuiltCartPole(runs, envs, streams, self.max_steps)
