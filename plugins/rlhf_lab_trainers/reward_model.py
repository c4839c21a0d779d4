"""Fitting a reward model to rankings, labels or scores of responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from rlhf_lab.components import Component
from rlhf_lab.training.candidates import Candidates, scores
from rlhf_lab.training.protocols import KnownEnvironment, Setup
from rlhf_lab.training.step import REWARD
from rlhf_lab.types import Scores
from rlhf_lab.worlds.sequences import SequenceWorld
from rlhf_lab_trainers.calibration import Calibration
from rlhf_lab_trainers.exact_pairs import ExactPairs
from rlhf_lab_trainers.ranked_learner import RankedLearner
from rlhf_lab_trainers.ranking_checks import unread_labels
from rlhf_lab_trainers.ranking_metrics import Contrast
from rlhf_lab_trainers.records import OnRecords, Records

__all__ = ["RewardActor", "RewardModel", "RewardModelLearner"]


class RewardModel(OnRecords):
    """Minimise a reward-model objective on fixed data; the weights are called ``reward.NAME`` for later stages.

    The model is a policy of its own, whose preferences are read as rewards. It begins with the ``reward.`` weights of
    an earlier stage where there are any, else as the policy does before any training. Loss, minibatches and counts are
    those of ``offline``.

    Metrics on the rows that are learned from, each scored before an iteration's step on it: ``loss``, ``grad_norm``,
    ``chosen_score`` and ``rejected_score``, ``margin``, ``accuracy``, and ``calibration_error``, the expected
    calibration error of the predicted preference max(p, 1 - p), p = σ(r_best - r_worst), in ``bins`` equal bins of
    [1/2, 1]: the mean over rows of |mean prediction - share that is right| of their bin. They say nothing of other
    responses.

    In a world of token strings also what holds beyond the rows, behind an iteration's last step. On all pairs of two
    different responses to a prompt, each pair as likely as the others and labelled by the Bradley-Terry probability of
    the true reward: ``exact_accuracy``, beside it ``best_accuracy``, that of the true reward itself, and
    ``exact_calibration_error``; pairs of some drawn responses where there are more than 32,768 per run, those of 256.
    ``reward_error`` is the root mean square of r - r_true over all responses alike, each prompt's mean difference taken
    off (a reward is known up to a shift per prompt). Prompts count by their probability.
    """

    name = "reward_model"
    reference = "Ouyang et al. 2022, section 3.5; Guo et al. 2017, eq. 3 (calibration)"
    uses: ClassVar[Mapping[str, bool]] = {"data": True, "reward_model": True, "optimizer": True}
    provides = frozenset({"uniforms"})

    bins: int = Field(default=10, ge=1, description="bins of the calibration error")

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return labels that the objective does not read."""
        return unread_labels(components, "reward_model")

    def build(self, setup: Setup) -> RewardModelLearner:
        """Return the loop, ready for its first iteration."""
        return RewardModelLearner(self, setup)


class RewardActor(nn.Module):
    """A reward model: the weights of a policy under names of their own, so that both can stand side by side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.reward = model

    def rewards(self, candidates: Candidates) -> Tensor:
        """Return the scores ``[runs, rows, k]``, gradients flow."""
        found: Tensor = self.reward.rewards(candidates)
        return found


class RewardModelLearner(RankedLearner):
    """All seeds of one arm, each with its own data."""

    def __init__(self, options: RewardModel, setup: Setup) -> None:
        objective = setup.components["reward_model"]
        super().__init__(setup, options.max_grad_norm, objective)
        self.options = options
        self._records = Records(options, setup, self.environment, objective)
        world = self.environment.exact()
        self._world = world if isinstance(world, SequenceWorld) else None
        self._pairs = None if self._world is None else ExactPairs(self._world, setup.streams, options.bins)
        self._begin()
        self._try(self._records.minibatch(self._records.epochs, 0))

    @property
    def data(self) -> Candidates:
        """The data of all runs."""
        return self._records.all

    def _make_actor(self, setup: Setup) -> Any:
        own = {name.removeprefix(REWARD): x for name, x in setup.parameters.items() if name.startswith(REWARD)}
        return RewardActor(super()._make_actor(replace(setup, parameters=own)))

    def _begin(self) -> None:
        self._calibration = Calibration(self.streams.runs, self.options.bins)

    def step(self, progress: float | Tensor) -> dict[str, Tensor]:
        """Take the optimiser steps of one iteration and return their metrics."""
        self._begin()
        return super().step(progress)

    def _batches(self) -> Iterator[Candidates]:
        yield from self._records.minibatches(self.updates)

    def _scored(self, candidates: Candidates) -> tuple[Scores, dict[str, Tensor]]:
        said = self._outputs(candidates)
        optional = self.loss.optional(self.updates, candidates.rows, said.dtype)
        return scores(candidates, said, **optional), self._observe(candidates, said.detach())

    def _observe(self, candidates: Candidates, said: Tensor) -> dict[str, Tensor]:
        contrast = Contrast(candidates, said.dtype)
        best, worst = contrast.rows(said)
        self._calibration.add(best - worst, torch.ones_like(best), contrast.both)
        found = contrast.summary("score", score=(best, worst))
        return {
            "chosen_score": found["score_best"],
            "rejected_score": found["score_worst"],
            "margin": found["score_best"] - found["score_worst"],
            "accuracy": found["accuracy"],
        }

    @torch.no_grad()
    def _report(self) -> dict[str, Tensor]:
        found = {"calibration_error": self._calibration.error()}
        if self._world is None or self._pairs is None:
            return found
        said = self.actor.rewards(cast("KnownEnvironment", self.environment).all_responses()).double()
        apart = said - self._world.reward
        spread = (apart - apart.mean(-1, keepdim=True)).square().mean(-1)
        error = (self._world.prompt_probs * spread).sum(-1).sqrt()
        return found | self._pairs.metrics(said) | {"reward_error": error}

    def _outputs(self, candidates: Candidates) -> Tensor:
        said: Tensor = self.actor.rewards(candidates)
        return said
