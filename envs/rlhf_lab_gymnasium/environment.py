"""Any registered Gymnasium environment as an environment component.

Requirements this file meets:
- one vector environment per run, seeded from that run's stream, so that runs cannot mix whatever the environment does;
- every autoreset mode gives the same trajectories: the reset step of NEXT_STEP is not valid, and a truncation is
  bootstrapped from the true final observation, wherever the mode puts it;
- numbers for actions are counted by the row's own steps, so that a reset step takes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.spaces.utils import flatdim
from gymnasium.vector import AutoresetMode, VectorEnv
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import Environment
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.adapter import making
from rlhf_lab.training.protocols import Actor, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.stepped import Step, fill_uniforms, record

__all__ = ["BuiltGymnasium", "GymnasiumEnvironment"]

Autoreset = Literal["next_step", "same_step", "disabled"]
_MODES: Final = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


class _VectorRows:
    """The vector environments of all runs as rows; see ``Rows``. With ``once`` a row is over after one episode."""

    def __init__(self, envs: list[VectorEnv], spaces: Spaces, streams: Streams, collect: int, once: bool) -> None:
        runs, rows = len(envs), envs[0].num_envs
        self._envs, self._spaces, self._once, self._collect = envs, spaces, once, collect
        self._keys = streams["actions"].keys
        self._mode = envs[0].metadata["autoreset_mode"]
        self._counts = np.zeros((runs, rows), dtype=np.int64)
        self._resetting = np.zeros((runs, rows), dtype=np.bool_)  # NEXT_STEP: the next step only resets
        self._over = np.zeros((runs, rows), dtype=np.bool_)
        seeds = (streams["seeds"].uniforms(collect, rows) * 2**31).long().tolist()
        batched = isinstance(envs[0], gymnasium.vector.SyncVectorEnv)
        found = [env.reset(seed=seed if batched else seed[0]) for env, seed in zip(envs, seeds, strict=True)]
        self._observations = np.stack([self._encode(observation) for observation, _ in found])
        self._mask = np.ones((runs, rows, spaces.actions), dtype=np.bool_)
        for run, (_, info) in enumerate(found):
            self._read_mask(run, info)

    def observe(self) -> tuple[Any, Any, Any]:
        uniforms = np.empty((*self._counts.shape, max(self._spaces.action_size, 1)))
        fill_uniforms(uniforms, self._keys, self._counts, self._collect)
        numbers = uniforms if self._spaces.action_size else uniforms[..., 0]
        return self._observations.copy(), numbers, self._mask.copy() if self._spaces.masked else None

    def step(self, actions: Any) -> Step:
        shape = self._counts.shape
        valid = ~self._resetting & ~self._over
        rewards = np.zeros(shape)
        terminated, truncated = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
        finals = np.empty_like(self._observations)
        for run, env in enumerate(self._envs):
            if self._over[run].all():  # stepping on would move this run's numbers as far as the longest run needs
                finals[run] = self._observations[run]
                continue
            rewards[run], terminated[run], truncated[run], finals[run] = self._step_run(run, env, actions[run])
        truncated &= ~terminated
        rewards[~valid] = 0
        terminated &= valid
        truncated &= valid
        self._counts += valid
        ended = terminated | truncated
        if self._mode is AutoresetMode.NEXT_STEP:
            self._resetting = ended
        if self._once:
            self._over |= ended
        return Step(rewards, terminated, truncated, valid, finals)

    def over(self) -> bool:
        return bool(self._over.all())

    def _step_run(self, run: int, env: VectorEnv, actions: Any) -> tuple[Any, Any, Any, Any]:
        """Step one run; set what to act on next, and return rewards, both flags and the true next observations."""
        observation, rewards, terminated, truncated, info = env.step(self._within(actions))
        following = self._encode(observation)
        finals = following.copy()
        ended = terminated | truncated
        if ended.any() and self._mode is AutoresetMode.SAME_STEP:
            last = [final for final, there in zip(info["final_obs"], info["_final_obs"], strict=True) if there]
            finals[info["_final_obs"]] = self._encode(np.stack(last))
        elif ended.any() and self._mode is AutoresetMode.DISABLED:
            observation, info = env.reset(options={"reset_mask": ended})
            following = self._encode(observation)
        self._observations[run] = following
        self._read_mask(run, info)
        return rewards, terminated, truncated, finals

    def _within(self, actions: Any) -> Any:
        """Return continuous actions clipped to the space; the log-probabilities are those of the unclipped ones."""
        space = self._envs[0].single_action_space
        if not isinstance(space, Box):
            return actions
        return np.clip(actions.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype)

    def _encode(self, observation: Any) -> Any:
        if self._spaces.states is not None:
            return observation.astype(np.int64)
        return observation.reshape(len(observation), -1).astype(np.float32)

    def _read_mask(self, run: int, info: Mapping[str, Any]) -> None:
        if "action_mask" in info and self._spaces.masked:
            there = info["_action_mask"]
            self._mask[run, there] = info["action_mask"][there].astype(np.bool_)


class BuiltGymnasium:
    """Gymnasium environments in progress, a vector environment of ``envs`` per run; see ``BuiltEnvironment``.

    Not resumable: Gymnasium cannot save an episode in progress, so a run that was interrupted starts again.
    """

    resumable = False

    def __init__(self, make: Any, runs: int, envs: int, streams: Streams) -> None:
        self._make, self._runs, self._envs, self._streams = make, runs, envs, streams
        self._fresh: dict[int, list[VectorEnv]] = {}
        self._collects = 0
        vectors = [make(envs) for _ in range(runs)]
        self.spaces = _spaces(vectors[0])
        self._rows = _VectorRows(vectors, self.spaces, streams, 0, once=False)

    def exact(self) -> None:
        """Return None: only the environment itself knows its truth."""
        return None

    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``. Whole episodes come one per row."""
        if size.unit == "steps":
            return record(actor, self._rows, size.count)
        self._collects += 1
        rows = self._envs * size.count
        if rows not in self._fresh:
            self._fresh[rows] = [self._make(rows) for _ in range(self._runs)]
        fresh = _VectorRows(self._fresh[rows], self.spaces, self._streams, self._collects, once=True)
        return record(actor, fresh, None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: see ``resumable``."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Raise ``LabError``: see ``resumable``."""
        raise LabError("a Gymnasium environment cannot go on from a checkpoint; start the run again")


def _spaces(env: VectorEnv) -> Spaces:
    observation, action = env.single_observation_space, env.single_action_space
    if not isinstance(observation, Box | Discrete):
        raise LabError(f"environment.id: observations must be Box or Discrete, found {observation}")
    if isinstance(observation, Discrete) and observation.start != 0:
        raise LabError(f"environment.id: states must be numbered from 0, found {observation}")
    if not (isinstance(action, Box) or (isinstance(action, Discrete) and action.start == 0)):
        raise LabError(f"environment.id: actions must be Box, or Discrete from 0, found {action}")
    return Spaces(
        actions=int(action.n) if isinstance(action, Discrete) else 0,
        states=int(observation.n) if isinstance(observation, Discrete) else None,
        observation=() if isinstance(observation, Discrete) else (flatdim(observation),),
        action_size=0 if isinstance(action, Discrete) else flatdim(action),
        masked=isinstance(action, Discrete) and "action_mask" in env.reset(seed=0)[1],
    )


class GymnasiumEnvironment(Environment):
    """Any registered Gymnasium environment with Box or Discrete observations and actions.

    Box observations are flattened to float32, Discrete ones are state numbers. Box actions are clipped to the space
    when they are played. ``info["action_mask"]`` is honoured. Each run has its own environments, seeded from its own
    stream. A run that was interrupted starts again, since Gymnasium cannot save an episode in progress.

    Source: Towers et al. 2024, "Gymnasium: a standard interface for reinforcement learning environments".
    """

    name = "gymnasium"
    reference = "Towers et al. 2024"
    provides = frozenset({"log_probs"})
    id: str = Field(default="CartPole-v1", description="Gymnasium's id; `module:id` imports the module first")
    kwargs: dict[str, Any] = Field(default={}, description="keyword arguments of the environment")
    vectorization: Literal["sync", "vector_entry_point"] = Field(
        default="sync", description="single environments in turn, or the environment's own vector implementation"
    )
    autoreset: Autoreset | None = Field(
        default=None, description="when single environments reset; None: same_step. A vector implementation has its own"
    )

    @model_validator(mode="after")
    def _own_mode(self) -> Self:
        if self.vectorization == "vector_entry_point" and self.autoreset is not None:
            raise ValueError("autoreset: a vector_entry_point has its own mode; leave autoreset out")
        return self

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltGymnasium:
        """Return the environments; raises ``LabError`` where Gymnasium cannot make them or their spaces do not fit."""
        return BuiltGymnasium(self._vector, runs, envs, streams)

    def _vector(self, rows: int) -> VectorEnv:
        sync = self.vectorization == "sync"
        options = {"autoreset_mode": _MODES[self.autoreset or "same_step"]} if sync else {}
        with making(self.id, self.kwargs):
            env = gymnasium.make_vec(
                self.id, rows, vectorization_mode=self.vectorization, vector_kwargs=options, **self.kwargs
            )
        if not isinstance(env.metadata.get("autoreset_mode"), AutoresetMode):
            raise LabError(f"environment.id: {self.id!r} does not say its autoreset_mode; use vectorization: sync")
        return env
