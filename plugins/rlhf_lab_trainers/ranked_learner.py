"""What the loops over responses share: an iteration of optimiser steps on candidates, its metrics, and its state.

Axes: [runs, rows, k]; runs never mix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Actor, BuiltEnvironment, RankingActor, Setup
from rlhf_lab.training.step import (
    GuardedOptimizer,
    as_state,
    from_state,
    make_actor,
    make_environment,
    mean_metrics,
)

__all__ = ["RankedLearner", "ranking_actor"]


def ranking_actor(setup: Setup, environment: BuiltEnvironment) -> Any:
    """Return the setup's actor; raises ``LabError`` where it cannot be asked about whole responses."""
    actor = make_actor(setup, environment.spaces)
    if not isinstance(actor, RankingActor):
        raise LabError(
            f"policy {setup.policy.name!r} on environment {setup.environment.name!r} cannot score whole responses; "
            "learning from rankings needs a policy over token sequences, such as tabular_autoregressive"
        )
    return actor


class RankedLearner(ABC):
    """All seeds of one arm in training on responses: an iteration is one optimiser step after the other.

    ``steps`` counts optimiser steps and ``episodes`` rows that they learned from, as often as they did.
    """

    actor: Any

    def __init__(self, setup: Setup, max_grad_norm: float) -> None:
        self.components: Mapping[str, Any] = setup.components
        self.streams = setup.streams
        self.environment: Any = make_environment(setup, 1)
        self.actor = self._make_actor(setup)
        self.optimizer = GuardedOptimizer(self.components["optimizer"].build(self.actor), setup.runs, max_grad_norm)
        self.iteration = 0
        self.updates = 0  # optimiser steps so far
        self.seen = torch.zeros(setup.runs, dtype=torch.float64)  # rows so far
        self.steps = torch.zeros(setup.runs, dtype=torch.float64)  # optimiser steps so far of each run
        self._counting = torch.ones(setup.runs, dtype=torch.bool)

    def _make_actor(self, setup: Setup) -> Actor:
        actor: Actor = ranking_actor(setup, self.environment)
        return actor

    @abstractmethod
    def _batches(self) -> Iterator[Candidates]:
        """Yield what this iteration's optimiser steps learn from; the weights move between two of them."""

    @abstractmethod
    def _loss(self, candidates: Candidates) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses ``[runs, ...]``, whose sum is a run's loss, and the metrics ``[runs]``."""

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
        points = [self._update(candidates) for candidates in self._batches()]
        metrics = mean_metrics(points)
        self.iteration += 1
        if not self.optimizer.all_alive:
            metrics = {name: torch.where(self.alive, value, torch.nan) for name, value in metrics.items()}
        return metrics | {"steps": self.steps.clone(), "episodes": self.seen.clone()}

    def _update(self, candidates: Candidates) -> dict[str, Tensor]:
        """Take one optimiser step and return its metrics."""
        loss, metrics = self._loss(candidates)
        metrics["grad_norm"] = self.optimizer.step(loss)
        self.optimizer.check_weights(lambda: self._largest_output(candidates))
        self.updates += 1
        self.steps += self._counting
        counted = candidates.rows if candidates.weights is None else (candidates.weights > 0).sum(1)
        self.seen += self._counting * counted
        return metrics

    @torch.no_grad()
    def _largest_output(self, candidates: Candidates) -> Tensor:
        """Return ``[runs]``: the largest absolute number that the actor says of these candidates."""
        said: Tensor = self.actor.score(candidates).log_probs
        return said.abs().flatten(1).amax(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on; data are made anew from the seeds."""
        return {
            **as_state("actor", self.actor.state_dict()),
            **as_state("optimizer", self.optimizer.state_dict()),
            **as_state("environment", self.environment.state_dict()),
            "counters": torch.tensor([self.iteration, self.updates]),
            "steps": self.steps,
            "seen": self.seen,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.actor.load_state_dict(from_state("actor", state))
        self.optimizer.load_state_dict(from_state("optimizer", state))
        self.environment.load_state_dict(from_state("environment", state))
        self.iteration, self.updates = state["counters"].tolist()
        self.steps, self.seen = state["steps"].clone(), state["seen"].clone()
