"""What the loops on the policy's own responses share: sample a round, make rows of it, learn from them in epochs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Trainer
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import RankedEnvironment, Setup, Size
from rlhf_lab.training.step import per_run
from rlhf_lab_trainers.epochs import Epochs
from rlhf_lab_trainers.preference_learner import PreferenceLearner

__all__ = ["OnSamples", "SamplingLearner"]


class OnSamples(Trainer):
    """Base of the loops that sample ``episodes`` responses per iteration and learn from them in minibatches."""

    episodes: int = Field(default=256, ge=1, description="responses per iteration, a multiple of environment.responses")
    epochs: int = Field(default=1, ge=1, description="passes over the rows of an iteration")
    minibatch: int | None = Field(
        default=None, ge=1, description="most rows per optimiser step; default: all rows in one"
    )
    max_grad_norm: float = Field(default=0.0, ge=0, description="largest gradient norm per run; 0 = no clipping")


class SamplingLearner(PreferenceLearner):
    """A loop whose iteration is one round of sampling; ``episodes`` counts responses, each once.

    ``episode_return`` is the mean reward that they were paid.
    """

    def __init__(self, options: OnSamples, setup: Setup, objective: Any) -> None:
        super().__init__(setup, options.max_grad_norm, objective)
        if not isinstance(self.environment, RankedEnvironment):
            raise LabError(
                f"environment {setup.environment.name!r}: its episodes are no responses to prompts, and cannot be "
                "compared; use environment sequences"
            )
        self._sampling = options
        self._round_metrics: dict[str, Tensor] = {}

    @abstractmethod
    def _rows(self, samples: Candidates) -> tuple[Candidates, dict[str, Tensor]]:
        """Return the rows to learn from and metrics ``[runs]``, from samples with their rewards as ``targets``."""

    def _try_a_round(self) -> None:
        """Sample a round as a trial, so that whatever is refused is told before anything runs."""
        before = {name: x.clone() for name, x in self.environment.state_dict().items()}
        self._try(self._round())
        self.environment.load_state_dict(before)

    def _round(self) -> Candidates:
        samples = self.environment.collect(self.actor, Size(self._sampling.episodes, "episodes"))
        candidates = self.environment.candidates(samples)
        rows, metrics = self._rows(candidates)
        returns = candidates.targets.to(self.episodes).flatten(1)
        self._round_metrics = {"episode_return": per_run(returns) / returns.shape[1], **metrics}
        return rows

    def _batches(self) -> Iterator[Candidates]:
        rows = self._round()
        self.episodes += self._counting * self._sampling.episodes
        epochs = Epochs(rows.rows, self._sampling.minibatch, self.streams["minibatches"])
        updates = self._sampling.epochs * epochs.count
        for number in range(self.iteration * updates, (self.iteration + 1) * updates):
            yield epochs.batch(rows, number)

    def _count(self, candidates: Candidates) -> int:
        return 0  # responses count when they are sampled, not as often as they are learned from

    def _report(self) -> dict[str, Tensor]:
        return self._round_metrics
