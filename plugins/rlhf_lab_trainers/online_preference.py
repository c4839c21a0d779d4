"""Preference learning on the policy's own responses: online and iterative DPO, SPIN, self-rewarding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Component, PreferenceObjective
from rlhf_lab.errors import LabError
from rlhf_lab.training.candidates import Candidates
from rlhf_lab.training.protocols import Setup
from rlhf_lab.training.step import initial_actor
from rlhf_lab_trainers.preference_learner import GIVEN
from rlhf_lab_trainers.prompt_records import PromptRecords
from rlhf_lab_trainers.ranking_checks import check_data
from rlhf_lab_trainers.rows import one_by_one, side_by_side, taken
from rlhf_lab_trainers.sampling_learner import OnSamples, SamplingLearner

__all__ = ["OnlinePreference", "OnlinePreferenceLearner"]


class OnlinePreference(OnSamples):
    """Each round: sample ``environment.responses`` answers to each prompt, rank them, learn from the rankings.

    - online DPO (Guo et al. 2024, 2402.04792): ``label: preference``, or ``reward`` for a judge without noise, and the
      reference that the run begins with;
    - iterative DPO: the same with many responses and epochs per round, and ``renew_reference: 1``, which makes each
      round's first policy its reference;
    - SPIN (Chen et al. 2024, 2401.01335, algorithm 1): ``chosen: data``, ``renew_reference: 1``; each answer loses
      against the best response of a row of the data to the same prompt, drawn by weight. It stands still where the
      policy is the data's distribution;
    - self-rewarding (Yuan et al. 2024, 2401.10020): ``label: self``. The judge is the policy itself, by its implicit
      reward log(pi / pi_0) at the time of sampling, with pi_0 the policy before any training of the arm; the paper
      asks the language model in words instead. It needs an earlier stage that has learned preferences.

    ``label: preference`` draws the ranking from Plackett-Luce (of two: Bradley-Terry) with scores reward /
    ``temperature``. Rewards are those that the environment pays. Rows whose best and worst answer have one score say
    nothing and have weight 0, with labels that are not drawn.

    ``steps`` count optimiser steps and ``episodes`` sampled responses. Metrics beside those of ``offline``:
    ``episode_return``, the mean reward of the samples.
    """

    name = "online_preference"
    reference = "Guo et al. 2024 (2402.04792), algorithm 1"
    uses: ClassVar[Mapping[str, bool]] = {"preference": True, "optimizer": True, "data": False}
    provides = GIVEN

    chosen: Literal["samples", "data"] = Field(
        default="samples", description="where the better answers come from: the policy itself, or the data"
    )
    label: Literal["reward", "preference", "self"] = Field(
        default="preference",
        description="who ranks: the reward, Plackett-Luce of the reward, or the policy's own implicit reward",
    )
    temperature: float = Field(default=1.0, gt=0, description="of Plackett-Luce, for label: preference")
    compare: Literal["ranking", "best_and_worst"] = Field(
        default="ranking", description="what of a prompt's answers is learned from: all in order, or the first and last"
    )
    renew_reference: int = Field(
        default=0, ge=0, description="rounds after which the policy becomes the reference; 0 = never"
    )

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        """Return options that nothing reads, and data that are missing or too much."""
        given, objective = self.model_fields_set, components.get("preference")
        found = []
        if self.chosen == "data" and "data" not in components:
            found.append("data: chosen: data sets the policy's answers against records; add `data: NAME`")
        if self.chosen == "samples" and "data" in components:
            found.append("data: chosen: samples reads none; leave it out, or set trainer.chosen: data")
        if self.chosen == "data":
            ignored = [name for name in ("label", "temperature", "compare") if name in given]
            found += [f"trainer.{name}: chosen: data ranks nothing; leave it out" for name in ignored]
        elif self.label != "preference" and "temperature" in given:
            found.append(f"trainer.temperature: label: {self.label} draws nothing; leave it out")
        needs = frozenset() if objective is None else objective.needs()
        if self.renew_reference and objective is not None and not any("ref_" in name for name in needs):
            found.append(f"trainer.renew_reference: preference {objective.name!r} has no reference; leave it out")
        return found

    def build(self, setup: Setup) -> OnlinePreferenceLearner:
        """Return the loop, ready for its first round."""
        return OnlinePreferenceLearner(self, setup)


class OnlinePreferenceLearner(SamplingLearner):
    """All seeds of one arm."""

    def __init__(self, options: OnlinePreference, setup: Setup) -> None:
        objective: PreferenceObjective = setup.components["preference"]
        super().__init__(options, setup, objective)
        self.options = options
        self.data: Candidates | None = None
        if options.chosen == "data":
            untrained = initial_actor(setup, self.environment.spaces)
            self.data = setup.components["data"].build(self.environment, untrained, setup.streams["data"])
            check_data(self.data, objective, setup.streams.seeds)
            self._records = PromptRecords(self.data)
        elif options.label == "self":
            if not any(name in self.actor.state_dict() for name in setup.parameters):
                raise LabError(
                    "trainer.label: self judges by what the policy has learned before, which is nothing yet; put a "
                    "stage before this one that learns from preferences"
                )
            self._untrained: Any = initial_actor(setup, self.environment.spaces)
        if self.with_reference:
            self.actor.keep_reference()
        self._try_a_round()

    def _batches(self) -> Iterator[Candidates]:
        if self.options.renew_reference and self.iteration and self.iteration % self.options.renew_reference == 0:
            self.actor.keep_reference()
        yield from super()._batches()

    def _rows(self, samples: Candidates) -> tuple[Candidates, dict[str, Tensor]]:
        if self.options.chosen == "data":
            return self._against_records(one_by_one(samples)), {}
        answers = samples.lengths.shape[-1]
        if answers < 2:
            raise LabError(f"environment.responses: {answers} answer to a prompt cannot be ranked; set it to 2 or more")
        scores = self._scores(samples)
        order = scores.argsort(dim=-1, descending=True, stable=True)
        if self.options.compare == "best_and_worst":
            order = order[..., [0, -1]]
        most = self.loss.objective.most_candidates()
        if most is not None and order.shape[-1] > most:
            raise LabError(
                f"trainer.compare: preference {self.loss.objective.name!r} takes {most} responses to a prompt, and "
                f"there are {answers}; set compare: best_and_worst, or environment.responses: {most}"
            )
        rows = replace(taken(samples, order), targets=None)
        if self.options.label != "preference":
            rows = replace(rows, weights=(scores.amax(-1) > scores.amin(-1)).to(scores))
        return rows, {}

    def _scores(self, samples: Candidates) -> Tensor:
        """Return the numbers ``[runs, rows, k]`` by which a prompt's answers are ranked."""
        assert samples.targets is not None  # an environment tells the rewards of its samples
        if self.options.label == "reward":
            return samples.targets
        if self.options.label == "self":
            with torch.no_grad():
                ratio: Tensor = self.actor.score(samples).log_probs - self._untrained.score(samples).log_probs
            return ratio
        uniforms = self.streams["labels"].uniforms(self.iteration, *samples.targets.shape[1:])
        gumbel = -(-uniforms.log()).log()  # with which the order of the sums is Plackett-Luce's (Yellott 1977)
        return samples.targets.double() / self.options.temperature + gumbel

    def _against_records(self, answers: Candidates) -> Candidates:
        """Return pairs of a record and an answer to the same prompt; of weight 0 where there is no record."""
        prompts = answers.inputs["prompts"]
        uniforms = self.streams["records"].uniforms(self.iteration, prompts.shape[1])
        records, found = self._records.draw(prompts, uniforms)
        return replace(side_by_side(records, answers), weights=found.double())
