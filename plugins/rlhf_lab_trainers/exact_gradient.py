"""Reinforcement learning without sampling: the KL-regularised objective is ascended along its exact gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from rlhf_lab.components import Trainer
from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import KnownEnvironment, Setup
from rlhf_lab.training.step import per_run
from rlhf_lab.worlds.sequences import SequenceWorld
from rlhf_lab_trainers.step_learner import StepLearner

__all__ = ["ExactGradient", "ExactGradientLearner"]


class ExactGradient(Trainer):
    """Ascend J(π) = E_x [Σ_y π(y|x) (r(x,y) - β log(π(y|x) / π_ref(y|x)))] by its exact gradient over all responses.

    r is the reward that the environment pays, which is the learned one behind a stage that fits a reward model; π_ref
    is the policy at the start of the run. What PPO approaches with samples and a clipped objective, for every policy
    that scores responses in a world of token strings. ``steps`` count optimiser steps and ``episodes`` prompts.

    Metrics: ``loss`` -J, ``paid_return`` E r, ``kl`` KL(π || π_ref), ``grad_norm``.
    """

    name = "exact_gradient"
    reference = "Ziegler et al. 2019, eq. 2 (the objective); Agarwal et al. 2021, section 3 (exact gradients)"
    uses: ClassVar[Mapping[str, bool]] = {"optimizer": True}

    updates: int = Field(default=1, ge=1, description="optimiser steps per iteration")
    beta: float | None = Field(default=None, ge=0, description="price of the KL; default: the environment's beta")
    max_grad_norm: float = Field(default=0.0, ge=0, description="largest gradient norm per run; 0 = no clipping")

    def build(self, setup: Setup) -> ExactGradientLearner:
        """Return the loop, ready for its first iteration."""
        return ExactGradientLearner(self, setup)


class ExactGradientLearner(StepLearner):
    """All seeds of one arm; no random number is drawn."""

    def __init__(self, options: ExactGradient, setup: Setup) -> None:
        super().__init__(setup, options.max_grad_norm)
        world = self.environment.exact()
        if not isinstance(world, SequenceWorld):
            raise LabError(
                f"environment {setup.environment.name!r}: exact_gradient needs a world of token strings, whose "
                "responses are all known; use environment sequences, or another trainer"
            )
        known = cast("KnownEnvironment", self.environment)
        self.options = options
        self.beta = known.beta if options.beta is None else options.beta
        self.responses = known.all_responses()
        self.rewards = known.paid_rewards
        self._prompts = world.prompt_probs
        self.actor.keep_reference()

    def objective(self) -> tuple[Tensor, Tensor]:
        """Return E_y r and KL(π || π_ref) of each prompt, ``[runs, x]`` float64, gradients flow."""
        scored = self.actor.score(self.responses)
        log_probs, reference = scored.log_probs.double(), scored.ref_log_probs.double()
        probabilities = log_probs.exp()
        return (probabilities * self.rewards).sum(-1), (probabilities * (log_probs - reference)).sum(-1)

    def _iterate(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.options.updates):
            returns, divergence = (self._prompts * part for part in self.objective())
            loss = self.beta * divergence - returns
            parts = {"loss": loss, "paid_return": returns, "kl": divergence}
            metrics = {name: per_run(part.detach()) for name, part in parts.items()}
            yield self._minimise(loss, metrics, len(self._prompts), self._largest_output)

    @torch.no_grad()
    def _largest_output(self) -> Tensor:
        said: Tensor = self.actor.score(self.responses).log_probs
        return said.abs().flatten(1).amax(1)
