"""What the loops on fixed data share: their options, and the data of all runs in minibatches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from rlhf_lab.components import Trainer
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import BuiltEnvironment, Setup
from rlhf_lab.training.step import initial_actor
from rlhf_lab_trainers.epochs import Epochs
from rlhf_lab_trainers.packing import pack, unpack
from rlhf_lab_trainers.ranking_checks import check_data

__all__ = ["OnRecords", "Records"]


class OnRecords(Trainer):
    """Base of the loops that take ``updates`` optimiser steps per iteration on minibatches of fixed data."""

    minibatch: int | None = Field(
        default=None, ge=1, description="most rows per optimiser step; default: all rows in one"
    )
    updates: int = Field(default=1, ge=1, description="optimiser steps per iteration")
    max_grad_norm: float = Field(default=0.0, ge=0, description="largest gradient norm per run; 0 = no clipping")


class Records:
    """The data of all runs, fit for ``objective``, and their minibatches."""

    def __init__(self, options: OnRecords, setup: Setup, environment: BuiltEnvironment, objective: Any) -> None:
        untrained = initial_actor(setup, environment.spaces)
        data: Candidates = setup.components["data"].build(environment, untrained, setup.streams["data"])
        check_data(data, objective, setup.streams.seeds)
        self.epochs = Epochs(data.rows, options.minibatch, setup.streams["minibatches"])
        self._updates = options.updates
        self._whole = data if self.epochs.count == 1 else None  # which every step learns from as it is
        self._packed = data.changed(pack)

    @property
    def all(self) -> Candidates:
        """All rows."""
        return self._packed.changed(unpack) if self._whole is None else self._whole

    def minibatch(self, epochs: Epochs, number: int) -> Candidates:
        """Return minibatch ``number`` of the rows as dealt by ``epochs``."""
        return epochs.batch(self._packed, number).changed(unpack) if self._whole is None else self._whole

    def minibatches(self, first: int) -> Iterator[Candidates]:
        """Yield one iteration's minibatches, of which ``first`` came before."""
        for number in range(first, first + self._updates):
            yield self.minibatch(self.epochs, number)
