"""Learning from the best of one's own responses: rejection sampling, best of n, RAFT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Setup
from rlhf_lab.training.step import per_run
from rlhf_lab_trainers.preference_learner import GIVEN
from rlhf_lab_trainers.rows import one_by_one, taken
from rlhf_lab_trainers.sampling_learner import OnSamples, SamplingLearner

__all__ = ["RejectionSampling", "RejectionSamplingLearner"]


class RejectionSampling(OnSamples):
    """Sample ``environment.responses`` answers to each prompt, keep the best, and learn to give those.

    Kept are the ``keep`` best of a prompt's answers (RAFT, best of n), or those whose reward reaches ``threshold``, or
    those that reach the ``quantile`` of all rewards of the run's round (ReST's filter, and expert iteration). The loss
    is the preference objective's, on rows of one response each; supervised learning where none is named:
    -sum over kept of log π(y|x) / how many are kept. Its gradient with a threshold is, up to this factor, REINFORCE's
    for the reward 1[r >= threshold] without a baseline. A round in which nothing is kept has loss 0.

    ``steps`` count optimiser steps and ``episodes`` sampled responses. Metrics beside those of ``offline``:
    ``episode_return`` (mean reward of the samples), ``kept_return`` (of what is kept) and ``kept`` (share).
    """

    name = "rejection_sampling"
    reference = "Dong et al. 2023 (RAFT, 2304.06767), algorithm 1; Gulcehre et al. 2023 (ReST, 2308.08998), eq. 3"
    uses: ClassVar[Mapping[str, bool]] = {"optimizer": True, "preference": False}
    defaults: ClassVar[Mapping[str, str]] = {"preference": "sft"}
    provides = GIVEN

    keep: int | None = Field(default=None, ge=1, description="how many answers to each prompt are kept; default: 1")
    threshold: float | None = Field(default=None, description="keep the answers whose reward is not below")
    quantile: float | None = Field(
        default=None, ge=0, le=1, description="keep the answers whose reward is not below this quantile of the round's"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> RejectionSampling:
        given = [name for name in ("keep", "threshold", "quantile") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of keep, threshold and quantile, found {' and '.join(given)}")
        return self

    def build(self, setup: Setup) -> RejectionSamplingLearner:
        """Return the loop, ready for its first iteration."""
        return RejectionSamplingLearner(self, setup)


class RejectionSamplingLearner(SamplingLearner):
    """All seeds of one arm."""

    def __init__(self, options: RejectionSampling, setup: Setup) -> None:
        super().__init__(options, setup, setup.components["preference"])
        self.options = options
        if self.with_reference:
            self.actor.keep_reference()
        self._try_a_round()

    def _rows(self, samples: Candidates) -> tuple[Candidates, dict[str, Tensor]]:
        assert samples.targets is not None  # an environment tells the rewards of its samples
        targets = samples.targets
        answers = targets.shape[-1]
        if self.options.threshold is None and self.options.quantile is None:
            keep = self.options.keep or 1
            if keep >= answers:
                raise LabError(
                    f"trainer.keep: {keep} of {answers} answers to a prompt are kept, so that nothing is rejected; "
                    "set environment.responses higher"
                )
            best = targets.argsort(dim=-1, descending=True, stable=True)[..., :keep]
            rows = one_by_one(taken(samples, best))
            kept = torch.ones_like(rows.lengths[..., 0], dtype=torch.bool)
        else:
            rows = one_by_one(samples)
            assert rows.targets is not None
            rewards = rows.targets[..., 0]
            kept = rewards >= self._threshold(rewards)
            rows = replace(rows, weights=kept.to(rewards))
        assert rows.targets is not None
        counts = per_run(kept)
        metrics = {
            "kept": counts / targets[0].numel(),
            "kept_return": per_run(rows.targets[..., 0] * kept) / counts,
        }
        return replace(rows, targets=None), metrics

    def _threshold(self, rewards: Tensor) -> Tensor | float:
        """Return the lowest reward that is kept, ``[runs, 1]`` or one number."""
        if self.options.threshold is not None:
            return self.options.threshold
        assert self.options.quantile is not None
        return rewards.quantile(self.options.quantile, dim=1, keepdim=True, interpolation="higher")
