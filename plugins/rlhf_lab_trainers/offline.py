"""Learning a policy from records: rankings, labels or scores of responses that somebody else has written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates, best_and_worst
from rlhf_lab.training.protocols import Setup
from rlhf_lab.training.step import shares
from rlhf_lab.types import clean
from rlhf_lab_trainers.epochs import Epochs
from rlhf_lab_trainers.preference_learner import GIVEN, PreferenceLearner
from rlhf_lab_trainers.ranking_checks import unread_labels
from rlhf_lab_trainers.records import OnRecords, Records

__all__ = ["Offline", "OfflineLearner"]


class Offline(OnRecords):
    """Minimise a preference objective on fixed data: DPO and its family, or supervised learning on the best responses.

    The loss of a run is sum_i w_i L_i / sum_i w_i over the rows i of a minibatch, with w_i the row's weight in the data
    times the weight that the objective gives it. Each epoch deals all rows into ``ceil(rows / minibatch)`` minibatches
    without replacement; their sizes differ by one at most, so none is dropped and none is small. An epoch's order
    depends on the seed and the epoch alone.

    One iteration is ``updates`` optimiser steps; the learning rate's schedule moves on once per iteration. ``steps``
    count optimiser steps and ``episodes`` rows learned from, as often as they are. With ``warm_up`` the run begins with
    so many steps of maximum likelihood on the best responses, which no budget counts. The reference is the policy
    behind them.

    Metrics, means over the rows of an iteration: ``loss``, ``grad_norm``, ``chosen_log_prob`` and ``rejected_log_prob``
    (best and worst response), ``margin`` (difference of log(pi / pi_ref), of log pi where the objective has no
    reference), ``accuracy`` (share of rows in which it is positive), and those of the objective.
    """

    name = "offline"
    reference = "Rafailov et al. 2023, section 4 (2305.18290)"
    uses: ClassVar[Mapping[str, bool]] = {"data": True, "preference": True, "optimizer": True}
    provides = GIVEN

    warm_up: int = Field(default=0, ge=0, description="steps of maximum likelihood on the best responses at first")

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return labels that the objective does not read, and minibatches that cut what it looks at as a whole."""
        found = unread_labels(components, "preference")
        objective = components.get("preference")
        if objective is not None and objective.scope == "batch" and self.minibatch == 1:
            found.append(f"trainer.minibatch: preference {objective.name!r} looks at many rows together; give more")
        return found

    def build(self, setup: Setup) -> OfflineLearner:
        """Return the loop, ready for its first iteration."""
        return OfflineLearner(self, setup)


class OfflineLearner(PreferenceLearner):
    """All seeds of one arm, each with its own data."""

    def __init__(self, options: Offline, setup: Setup) -> None:
        objective = setup.components["preference"]
        super().__init__(setup, options.max_grad_norm, objective)
        self.options = options
        self._records = Records(options, setup, self.environment, objective)
        smallest = self._records.epochs.smallest
        if self.takes_mismatched and smallest < 2:
            raise LabError(
                f"trainer.minibatch: preference {objective.name!r} compares a row with the next one's responses, which "
                f"minibatches of {smallest} of {self._records.epochs.rows} rows do not hold; give a larger one"
            )
        if self.with_reference:
            self.actor.keep_reference()
        self._try(self._records.minibatch(self._records.epochs, 0))

    @property
    def data(self) -> Candidates:
        """The data of all runs."""
        return self._records.all

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Take ``updates`` optimiser steps, in the first iteration after the warm-up."""
        if self.options.warm_up and not self.iteration:
            self._warm_up()
        return super().step(progress)

    def _batches(self) -> Iterator[Candidates]:
        yield from self._records.minibatches(self.updates)

    def _warm_up(self) -> None:
        """Raise the likelihood of the best responses, then begin anew with the optimiser and keep the reference."""
        epochs = Epochs(self._records.epochs.rows, self.options.minibatch, self.streams["warm up"])
        for number in range(self.options.warm_up):
            candidates = self._records.minibatch(epochs, number)
            log_probs = self.actor.score(candidates).log_probs
            best, _ = best_and_worst(candidates)
            weights = best.to(log_probs)
            if candidates.weights is not None:
                weights = weights * candidates.weights.to(weights)[..., None]
            self.optimizer.step(-shares(weights) * clean(log_probs, best))
            self.optimizer.check_weights(partial(self._largest_output, candidates))
        self.optimizer.forget()
        if self.with_reference:
            self.actor.keep_reference()
