"""What loops of optimiser steps share: an iteration of several, its metrics, what has been counted, and the state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import Actor, RankingActor, Setup
from rlhf_lab.training.step import (
    GuardedOptimizer,
    as_state,
    from_state,
    make_actor,
    make_environment,
    mean_metrics,
)

__all__ = ["StepLearner"]


class StepLearner(ABC):
    """All seeds of one arm in training on responses; an iteration is one optimiser step after the other.

    ``steps`` counts optimiser steps and ``episodes`` what they learned from, as often as they did.
    """

    def __init__(self, setup: Setup, max_grad_norm: float, envs: int = 1) -> None:
        self.components: Mapping[str, Any] = setup.components
        self.streams = setup.streams
        self.environment: Any = make_environment(setup, envs)
        self.actor: Any = self._make_actor(setup)
        self.optimizer = GuardedOptimizer(self.components["optimizer"].build(self.actor), setup.runs, max_grad_norm)
        self.iteration = 0
        self.updates = 0  # optimiser steps so far
        self.steps = torch.zeros(setup.runs, dtype=torch.float64)  # the same of each run, without those it rested
        self.episodes = torch.zeros(setup.runs, dtype=torch.float64)
        self._counting = torch.ones(setup.runs, dtype=torch.bool)

    def _make_actor(self, setup: Setup) -> Actor:
        """Return the setup's actor; raises ``LabError`` where it cannot be asked about whole responses."""
        actor = make_actor(setup, self.environment.spaces)
        if not isinstance(actor, RankingActor):
            raise LabError(
                f"policy {setup.policy.name!r} on environment {setup.environment.name!r} cannot score whole responses; "
                "learning from responses needs a policy over token sequences, such as tabular_autoregressive"
            )
        return actor

    @abstractmethod
    def _iterate(self) -> Iterator[dict[str, Tensor]]:
        """Take this iteration's optimiser steps, and yield the metrics of each."""

    def _report(self) -> dict[str, Tensor]:
        """Return further metrics ``[runs]`` of the iteration as a whole, behind its last step."""
        return {}

    @property
    def alive(self) -> Tensor:
        """Which runs have not diverged, ``[runs]``."""
        return self.optimizer.alive

    def rest(self, resting: Tensor) -> None:
        """Leave the weights and counters of these runs ``[runs]`` as they are from now on."""
        self.optimizer.rest(resting)
        self._counting = ~resting

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Take the optimiser steps of one iteration and return their metrics, averaged over the steps."""
        if isinstance(progress, Tensor):
            progress = float(progress[0])  # all runs take the same steps, so they are equally far
        self.optimizer.anneal(self.components["optimizer"].rate, progress)
        metrics = mean_metrics(list(self._iterate())) | self._report()
        self.iteration += 1
        if not self.optimizer.all_alive:
            metrics = {name: torch.where(self.alive, value, torch.nan) for name, value in metrics.items()}
        return metrics | {"steps": self.steps.clone(), "episodes": self.episodes.clone()}

    def _minimise(
        self, loss: Tensor, metrics: dict[str, Tensor], rows: int | Tensor, largest_output: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        """Take a step along ``loss [runs, ...]``, which learns from so many rows, and return its metrics."""
        metrics["grad_norm"] = self.optimizer.step(loss)
        self.optimizer.check_weights(largest_output)
        self.updates += 1
        self.steps += self._counting
        self.episodes += self._counting * rows
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on; data are made anew from the seeds."""
        return {
            **as_state("actor", self.actor.state_dict()),
            **as_state("optimizer", self.optimizer.state_dict()),
            **as_state("environment", self.environment.state_dict()),
            "counters": torch.tensor([self.iteration, self.updates]),
            "steps": self.steps,
            "episodes": self.episodes,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.actor.load_state_dict(from_state("actor", state))
        self.optimizer.load_state_dict(from_state("optimizer", state))
        self.environment.load_state_dict(from_state("environment", state))
        self.iteration, self.updates = state["counters"].tolist()
        self.steps, self.episodes = state["steps"].clone(), state["episodes"].clone()
