"""Bandits: every step is an episode.

The arms' means are drawn per run from the run's own stream, so that every seed has its own problem.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numba
import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.components import Environment
from rlhf_lab.random import Streams, philox, uniform
from rlhf_lab.training.protocols import Actor, Size, Spaces
from rlhf_lab.training.samples import Samples
from rlhf_lab.training.walk import draw_action, gaussian
from rlhf_lab.types import Trajectories
from rlhf_lab.worlds.tabular import TabularMDP

__all__ = ["BanditEnvironment", "BernoulliBandit", "BuiltBandit", "ContextualBandit", "GaussianBandit", "bandit_world"]

_ZERO = np.uint64(0)
_PULL = np.uint64(0)  # last word of the counter: what the numbers are for
_CONTEXT = np.uint64(1)
_DRIFT = np.uint64(2)


def bandit_world(means: Tensor, gamma: float) -> TabularMDP:
    """Return the world of ``means [*b, contexts, arms]``: one state per context and a terminal one behind them."""
    *runs, contexts, arms = means.shape
    transition = torch.zeros(contexts + 1, arms, contexts + 1, dtype=torch.float64)
    transition[..., contexts] = 1
    reward = torch.zeros(*runs, contexts + 1, arms, contexts + 1, dtype=torch.float64)
    reward[..., :contexts, :, contexts] = means
    terminal = torch.arange(contexts + 1) == contexts
    return TabularMDP(transition, reward, (~terminal).double() / contexts, terminal, gamma)


@numba.njit(cache=True)
def _pull(
    means: Any, probabilities: Any, keys: Any, first: int, noise: float, drift: float, coins: bool,
    contexts: Any, actions: Any, rewards: Any,
) -> None:  # fmt: skip
    """Pull in every row for each step of ``rewards [runs, rows, t]``; ``means [runs, contexts, arms]`` drift along."""
    runs, rows, steps = rewards.shape
    for run in range(runs):
        k0, k1 = keys[run, 0], keys[run, 1]
        for t in range(steps):
            count = np.uint64(first + t)
            for row in range(rows):
                context = 0
                if means.shape[1] > 1:
                    word, _, _, _ = philox(np.uint64(row), count, _ZERO, _CONTEXT, k0, k1)
                    context = int(uniform(word) * means.shape[1])
                w0, w1, w2, _ = philox(np.uint64(row), count, _ZERO, _PULL, k0, k1)
                action = draw_action(probabilities, run, context, uniform(w0))
                mean = means[run, context, action]
                contexts[run, row, t], actions[run, row, t] = context, action
                rewards[run, row, t] = uniform(w1) < mean if coins else mean + noise * gaussian(w1, w2)
            if drift > 0:
                for context in range(means.shape[1]):
                    for arm in range(means.shape[2]):
                        w0, w1, _, _ = philox(np.uint64(arm), count, np.uint64(context), _DRIFT, k0, k1)
                        means[run, context, arm] += drift * gaussian(w0, w1)


class BuiltBandit:
    """Bandits ``[runs, contexts, arms]``; see ``BuiltEnvironment``. A window of steps is as many episodes."""

    resumable = True

    def __init__(
        self, means: Tensor, envs: int, streams: Streams, gamma: float, noise: float, drift: float, coins: bool
    ) -> None:
        runs, contexts, arms = means.shape
        self.means = means.numpy().copy()
        self.spaces = Spaces(arms, states=contexts + 1)
        self._gamma, self._noise, self._drift, self._coins = gamma, noise, drift, coins
        self._envs = envs
        self._keys = streams["steps"].keys
        self._steps = 0
        self._observations = torch.arange(contexts + 1).expand(runs, -1).contiguous()

    def exact(self) -> TabularMDP:
        """Return the bandits with their present means, one world per run; its rewards are means."""
        return bandit_world(torch.from_numpy(self.means.copy()), self._gamma)

    @torch.no_grad()
    def collect(self, actor: Actor, size: Size) -> Samples:
        """Pull ``size.count`` times in each of ``envs`` rows; whole episodes come one per row."""
        table = actor.action_log_probs(self._observations)
        runs, states, arms = table.shape
        shape = (runs, self._envs, size.count)
        contexts, actions = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        paid = np.empty(shape, dtype=table.numpy().dtype)
        _pull(
            self.means, table.exp().numpy(), self._keys, self._steps, self._noise, self._drift, self._coins,
            contexts, actions, paid,
        )  # fmt: skip
        self._steps += size.count
        columns = [torch.from_numpy(x) for x in (contexts, actions, paid)]
        if size.unit == "episodes":
            columns = [x.view(runs, -1, 1) for x in columns]
        observations, chosen, rewards = columns
        pair = (observations * arms + chosen).flatten(1)
        values = actor.values(self._observations)
        ended = torch.ones_like(rewards, dtype=torch.bool)
        trajectories = Trajectories(
            rewards,
            terminated=ended,
            truncated=~ended,
            valid=ended,
            values=None if values is None else values.gather(1, observations.flatten(1)).view_as(rewards),
            next_values=None if values is None else torch.zeros_like(rewards),
            log_probs=table.reshape(runs, states * arms).gather(1, pair).view_as(rewards),
        )
        return Samples(trajectories, {"observations": observations, "actions": chosen})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the present means and the counter of the random numbers."""
        return {"means": torch.from_numpy(self.means.copy()), "steps": torch.tensor(self._steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned."""
        self.means, self._steps = state["means"].numpy().copy(), int(state["steps"])


class BanditEnvironment(Environment):
    """Base of the bandits: subclasses say how the means of the arms are drawn."""

    provides = frozenset({"log_probs"})
    gamma: float = Field(default=1.0, ge=0, le=1, description="the spec's own discount; an episode has one step")

    @abstractmethod
    def means(self, streams: Streams) -> Tensor:
        """Return the means ``[runs, contexts, arms]``, float64."""

    def noise(self) -> float:
        """Return the standard deviation of the rewards."""
        return 1.0

    def drifting(self) -> float:
        """Return the standard deviation of a mean's change per step."""
        return 0.0

    def coins(self) -> bool:
        """Return whether the rewards are 0 or 1 with the means as probabilities."""
        return False

    def build(self, runs: int, envs: int, streams: Streams) -> BuiltBandit:
        """Return one bandit per run, pulled in ``envs`` rows."""
        return BuiltBandit(
            self.means(streams["arms"]), envs, streams, self.gamma, self.noise(), self.drifting(), self.coins()
        )


class GaussianBandit(BanditEnvironment):
    """The k-armed testbed: q*(a) ~ N(mean, spread²) for each run, rewards ~ N(q*(a), noise²).

    With ``drift`` every q* takes an independent step N(0, drift²) after each pull of all rows.

    Source: Sutton and Barto 2018, section 2.3 (testbed), exercise 2.5 (drift 0.01), figure 2.5 (mean 4).
    """

    name = "bandit"
    reference = "Sutton and Barto 2018, section 2.3"
    arms: int = Field(default=10, ge=2, description="number of arms")
    mean: float = Field(default=0.0, description="mean of the arms' means")
    spread: float = Field(default=1.0, ge=0, description="standard deviation of the arms' means")
    reward_noise: float = Field(default=1.0, ge=0, description="standard deviation of a reward")
    drift: float = Field(default=0.0, ge=0, description="standard deviation of a mean's change per step")

    def means(self, streams: Streams) -> Tensor:
        """Return the means ``[runs, 1, arms]``."""
        return self.mean + self.spread * streams.normals(0, 1, self.arms)

    def noise(self) -> float:
        """Return ``reward_noise``."""
        return self.reward_noise

    def drifting(self) -> float:
        """Return ``drift``."""
        return self.drift


class BernoulliBandit(BanditEnvironment):
    """Arms that pay 1 with their own probability and 0 otherwise.

    Source: Sutton and Barto 2018, section 2.8; Mei et al. 2020 (rewards in [0, 1]).
    """

    name = "bernoulli_bandit"
    reference = "Mei et al. 2020, section 3"
    arms: int = Field(default=10, ge=2, description="number of arms where the probabilities are drawn")
    probabilities: tuple[float, ...] | None = Field(
        default=None, description="of paying 1, one per arm and the same in every run; None: uniform in (0, 1), per run"
    )

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.probabilities is None:
            return self
        if len(self.probabilities) < 2 or not all(0 <= p <= 1 for p in self.probabilities):
            raise ValueError(f"probabilities: expected at least two numbers in [0, 1], found {self.probabilities}")
        if "arms" in self.model_fields_set and self.arms != len(self.probabilities):
            raise ValueError(
                f"arms: is {self.arms}, but there are {len(self.probabilities)} probabilities; leave it out"
            )
        return self

    def means(self, streams: Streams) -> Tensor:
        """Return the probabilities ``[runs, 1, arms]``."""
        if self.probabilities is None:
            return streams.uniforms(0, 1, self.arms)
        return torch.tensor(self.probabilities, dtype=torch.float64).expand(streams.runs, 1, -1)

    def coins(self) -> bool:
        """Return True."""
        return True


class ContextualBandit(BanditEnvironment):
    """A bandit whose arms have other means in each context; the context is seen before the pull.

    Contexts are independent and uniform. Means and rewards are those of ``GaussianBandit``, drawn per run and context.
    It is the smallest picture of a language model: context = prompt, arm = response.

    Source: Sutton and Barto 2018, section 2.9 (associative search).
    """

    name = "contextual_bandit"
    reference = "Sutton and Barto 2018, section 2.9"
    contexts: int = Field(default=4, ge=1, description="number of contexts")
    arms: int = Field(default=10, ge=2, description="number of arms")
    mean: float = Field(default=0.0, description="mean of the arms' means")
    spread: float = Field(default=1.0, ge=0, description="standard deviation of the arms' means")
    reward_noise: float = Field(default=1.0, ge=0, description="standard deviation of a reward")

    def means(self, streams: Streams) -> Tensor:
        """Return the means ``[runs, contexts, arms]``."""
        return self.mean + self.spread * streams.normals(0, self.contexts, self.arms)

    def noise(self) -> float:
        """Return ``reward_noise``."""
        return self.reward_noise
