"""From an objective's loss per ranking to one weighted loss per run. Axes: [runs, rows]; runs never mix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlhf_lab.batch import true_somewhere
from rlhf_lab.calling import apply, restrict
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.training.step import per_run_all, shares
from rlhf_lab.types import Loss, Rankings, Scores

__all__ = ["ItemLoss"]

Items = TypeVar("Items", Rankings, Scores)


class ItemLoss:
    """Calls an objective on rankings or scores, and keeps what it carries from one optimiser step to the next."""

    def __init__(self, objective: Any, streams: Streams) -> None:
        self.objective: Any = objective
        self.needs: frozenset[str] = objective.needs()
        first = objective.initial_state()
        self.state = {name: x.expand(streams.runs, *x.shape).clone() for name, x in first.items()}
        self._streams = streams

    def optional(self, update: int, rows: int, dtype: torch.dtype) -> dict[str, Any]:
        """Return the uniforms ``[runs, rows]`` and the state that optimiser step ``update`` reads."""
        given: dict[str, Any] = {}
        if "uniforms" in self.needs:
            given["uniforms"] = self._streams.uniforms(update, rows, dtype=dtype)
        if self.state:
            given["state"] = self.state
        return given

    def __call__(self, batch: Items, weights: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses ``[runs, rows]``, whose sum is a run's loss, and the metrics ``[runs]``."""
        loss = self._called(batch)
        own = torch.ones_like(loss.values.detach()) if loss.weights is None else loss.weights
        share = shares(own if weights is None else own * weights.to(own))
        weighted = share * loss.values
        observed = {name: share * metric for name, metric in loss.metrics.items()}
        return weighted, per_run_all({**observed, "loss": weighted.detach()})

    def check(self, batch: Items) -> None:
        """Raise ``LabError`` where the objective gives weight to no row, so that nothing would be learned."""
        loss = self._called(batch)
        if loss.weights is not None and not bool(loss.weights.any()):
            raise LabError(
                f"{self.objective.role} {self.objective.name!r} gives every row weight 0: it learns nothing from rows "
                "like these; choose another objective, or rows with more responses"
            )

    def _called(self, batch: Items) -> Loss:
        loss: Loss = apply(self.objective, restrict(batch, self.objective))
        if loss.weights is not None and true_somewhere(loss.weights < 0):
            raise LabError(
                f"{self.objective.role} {self.objective.name!r} gives a row a negative weight; weights say how much a "
                "row counts, so turn the sign of its value instead"
            )
        return loss

    def move_on(self, metrics: Mapping[str, Tensor], moving: Tensor) -> None:
        """Let a stateful loss take account of a step's metrics, in the runs that are ``moving [runs]``."""
        if self.state:
            new = self.objective.next_state(self.state, metrics)
            self.state = {
                name: torch.where(moving.view(-1, *[1] * (x.ndim - 1)), x, self.state[name]) for name, x in new.items()
            }
