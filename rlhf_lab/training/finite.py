"""Environments that are a finite world: a transition table, or another world that tells its branches.

Requirements this file meets:
- on a finite world every policy is a table, so the actor is asked once per collect, for all states, and one compiled
  kernel walks all runs, rows and steps with it;
- windows go on where the last one stopped, without a fake transition at a reset; whole episodes are always fresh ones;
- each number depends on (seed, row, step, collect) alone: runs never mix, windows of 2 + 3 steps equal one of 5, and a
  restored state goes on exactly.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Environment
from rlhf_lab.random import Streams
from rlhf_lab.training.protocols import Actor, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.walk import DONE, NEW, Columns, PolicyTables, tabulate, walk
from rlhf_lab.types import Trajectories
from rlhf_lab.worlds.protocol import ExactWorld, open_actions

__all__ = ["MAX_STEPS", "BuiltFinite", "FiniteWorld"]

MAX_STEPS: Final = 10_000  # ends what a policy that never arrives would make an endless loop
_FIRST_CHUNK: Final = 32


class BuiltFinite:
    """``runs x envs`` episodes in progress on a finite world; see ``BuiltEnvironment``.

    ``inputs``: ``observations`` (state numbers) and ``actions``, ``[runs, rows, t]`` int64, and ``mask
    [runs, rows, t, actions]`` where some actions are illegal. Whole episodes come one per row, ``envs * count`` rows;
    so many of them as ``siblings`` says, one after the other, begin in the same state.
    """

    resumable = True

    def __init__(
        self,
        world: ExactWorld,
        runs: int,
        envs: int,
        streams: Streams,
        *,
        limit: int = MAX_STEPS,
        noise: float = 0.0,
        features: Tensor | None = None,
        action_features: Tensor | None = None,
        siblings: int = 1,
    ) -> None:
        states, actions = world.uniform_policy().shape
        self._legal = open_actions(world)
        self.spaces = Spaces(
            actions,
            states=states,
            features=features,
            action_features=action_features,
            masked=self._legal is not None,
            legal=self._legal,
        )
        self.move_to(world)
        self._keys = streams["steps"].keys
        self._limit, self._noise, self._envs, self._siblings = limit, noise, envs, siblings
        self._observations = torch.arange(states).expand(runs, states).contiguous()
        self._mask = None if self._legal is None else self._legal.expand(runs, states, actions)
        self._state = np.full((runs, envs), NEW, dtype=np.int64)
        self._age = np.zeros((runs, envs), dtype=np.int64)
        self._steps = 0  # of each row in windows so far
        self._collects = 0  # of whole episodes so far

    def move_to(self, world: ExactWorld) -> None:
        """Go on in a world that has the same states and actions, and pays something else."""
        self.world = world
        self._tables = tabulate(world)

    def exact(self) -> ExactWorld:
        """Return the world itself; its rewards are means."""
        return self.world

    @torch.no_grad()
    def collect(self, actor: Actor, size: Size) -> Samples:
        """Act and return trajectories; see ``BuiltEnvironment``."""
        log_probs = actor.action_log_probs(self._observations, self._mask).contiguous()
        values = actor.values(self._observations)
        critic = log_probs.new_zeros(log_probs.shape[:2]) if values is None else values.contiguous()
        # softmax where actions are illegal, because exp of -inf takes forty times as long
        probabilities = log_probs.exp() if self._mask is None else log_probs.softmax(dim=-1)
        policy = PolicyTables(log_probs.numpy(), probabilities.numpy(), critic.numpy())
        if size.unit == "steps":
            columns = self._walk(policy, size.count, self._state, self._age, self._steps, 0)
            self._steps += size.count
        else:
            self._collects += 1
            columns = self._episodes(policy, self._envs * size.count)
        return self._samples(columns, values is not None)

    def _walk(self, policy: PolicyTables, steps: int, state: Any, age: Any, first: int, collect: int) -> Columns:
        """Walk on for ``steps`` columns, in windows (``collect`` 0) with a new episode after each end."""
        shape, dtype = (*state.shape, steps), policy.log_probs.dtype
        out = Columns(
            *[np.zeros(shape, dtype=np.int64) for _ in range(2)],
            *[np.zeros(shape, dtype=dtype) for _ in range(4)],
            *[np.zeros(shape, dtype=np.bool_) for _ in range(3)],
        )
        walk(
            self._tables, policy, self._keys, collect, first, self._limit, self._noise, collect == 0,
            self._siblings if collect else 1, state, age, out,
        )  # fmt: skip
        return out

    def _episodes(self, policy: PolicyTables, rows: int) -> Columns:
        """Walk fresh rows until each has ended, in ever longer chunks, and cut the padding off."""
        state = np.full((policy.log_probs.shape[0], rows), NEW, dtype=np.int64)
        age = np.zeros_like(state)
        chunks: list[Columns] = []
        done = 0
        while (state != DONE).any():
            steps = max(done, min(self._limit, _FIRST_CHUNK))
            chunks.append(self._walk(policy, steps, state, age, done, self._collects))
            done += steps
        longest = int(age.max())
        return Columns(
            *[
                np.ascontiguousarray(np.concatenate(parts, axis=2)[:, :, :longest])
                for parts in zip(*chunks, strict=True)
            ]
        )

    def _samples(self, columns: Columns, with_values: bool) -> Samples:
        found = Columns(*map(torch.from_numpy, columns))
        trajectories = Trajectories(
            found.rewards,
            found.terminated,
            found.truncated,
            found.valid,
            values=found.values if with_values else None,
            next_values=found.next_values if with_values else None,
            log_probs=found.log_probs,
        )
        inputs = {"observations": found.states, "actions": found.actions}
        if self._legal is not None:
            inputs["mask"] = self._legal[found.states]
        return Samples(trajectories, inputs)

    def state_dict(self) -> dict[str, Tensor]:
        """Return where every row stands, and the counters of the random numbers."""
        counters = torch.tensor([self._steps, self._collects])
        return {
            "state": torch.from_numpy(self._state.copy()),
            "age": torch.from_numpy(self._age.copy()),
            "counters": counters,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self._state, self._age = state["state"].numpy().copy(), state["age"].numpy().copy()
        self._steps, self._collects = map(int, state["counters"])


class FiniteWorld(Environment):
    """Base of the environments that are a finite world: subclasses give ``world()``, and features if any."""

    provides = frozenset({"log_probs"})
    gamma: float = Field(default=1.0, ge=0, le=1, description="discount of the exact values; the spec's own gamma")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description=f"steps after which an episode is truncated; None: as registered with Gymnasium, else {MAX_STEPS}",
    )
    reward_noise: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise on each reward")

    @abstractmethod
    def world(self) -> ExactWorld:
        """Return the world."""

    def step_limit(self) -> int:
        """Return the number of steps after which an episode is truncated."""
        return self.max_steps or MAX_STEPS

    def features(self) -> tuple[Tensor | None, Tensor | None]:
        """Return ``features [states, d]`` and ``action_features [states, actions, d]``; None = one-hot."""
        return None, None

    def text(self, state: int) -> str:
        """Return a drawing of the world in ``state``."""
        return f"state {state}"

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltFinite:
        """Return ``runs x envs`` episodes in progress."""
        features, action_features = self.features()
        return BuiltFinite(
            self.world(),
            runs,
            envs,
            streams,
            limit=self.step_limit(),
            noise=self.reward_noise,
            features=features,
            action_features=action_features,
        )
