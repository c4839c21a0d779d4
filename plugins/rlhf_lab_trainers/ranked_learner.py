"""Loops whose optimiser steps minimise an objective on rows of responses. Axes: [runs, rows, k]; runs never mix."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Setup
from rlhf_lab.training.step import as_state, from_state
from rlhf_lab_trainers.item_loss import ItemLoss
from rlhf_lab_trainers.step_learner import StepLearner

__all__ = ["RankedLearner"]


class RankedLearner(StepLearner):
    """A loop over rows of responses with an objective of role preference or reward_model; ``episodes`` counts rows.

    A row of weight 0 does not count.
    """

    def __init__(self, setup: Setup, max_grad_norm: float, objective: Any, envs: int = 1) -> None:
        super().__init__(setup, max_grad_norm, envs)
        self.loss = ItemLoss(objective, setup.streams["loss"])

    @abstractmethod
    def _batches(self) -> Iterator[Candidates]:
        """Yield what this iteration's optimiser steps learn from; the weights move between two of them."""

    @abstractmethod
    def _scored(self, candidates: Candidates) -> tuple[Any, dict[str, Tensor]]:
        """Return the objective's batch for the candidates, gradients flow, and what is seen on the way, ``[runs]``."""

    @abstractmethod
    def _outputs(self, candidates: Candidates) -> Tensor:
        """Return what the actor says of the candidates, ``[runs, rows, k]``."""

    def _loss(self, candidates: Candidates) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses ``[runs, rows]``, whose sum is a run's loss, and the metrics ``[runs]``.

        A metric of the objective that has the name of one of the loop's is called ``loss_NAME``.
        """
        batch, seen = self._scored(candidates)
        loss, told = self.loss(batch, candidates.weights)
        return loss, seen | {f"loss_{name}" if name in seen else name: x for name, x in told.items()}

    @torch.no_grad()
    def _try(self, candidates: Candidates) -> None:
        """Raise what policy or objective refuse of the candidates, so that it is told before anything runs."""
        self.loss.check(self._scored(candidates)[0])

    def _count(self, candidates: Candidates) -> int | Tensor:
        """Return how many episodes a step on the candidates counts as, one number or ``[runs]``."""
        return candidates.rows if candidates.weights is None else (candidates.weights > 0).sum(1)

    def _iterate(self) -> Iterator[dict[str, Tensor]]:
        for candidates in self._batches():
            counted, largest = self._count(candidates), partial(self._largest_output, candidates)
            metrics = self._minimise(*self._loss(candidates), counted, largest)
            self.loss.move_on(metrics, self.alive & self._counting)
            yield metrics

    @torch.no_grad()
    def _largest_output(self, candidates: Candidates) -> Tensor:
        """Return ``[runs]``: the largest absolute number that the actor says of these candidates."""
        said = self._outputs(candidates)
        return (said if candidates.valid is None else said.masked_fill(~candidates.valid, 0)).abs().flatten(1).amax(1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that the next iteration depends on; data are made anew from the seeds."""
        return super().state_dict() | as_state("loss", self.loss.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.loss.state = from_state("loss", state)
