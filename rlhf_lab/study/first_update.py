"""What is measured of the first update alone; the policy is the untrained one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.step import Reduction, per_run
from rlhf_lab.types import clean

__all__ = ["first_update"]


def first_update(learner: Any) -> dict[str, Tensor]:
    """Return the first update's loss and gradient on one batch, beside the score-function gradient; ``[runs]`` each.

    ``loss_plus_mean_advantage`` is 0 where the loss is minus the mean advantage; ``gradient_difference`` is the
    distance to the gradient of -mean(A log pi), relative to that gradient's norm.
    """
    if not hasattr(learner, "policy_loss"):
        raise LabError("measure: first_update needs a trainer with a policy objective, such as online")
    batch, _ = learner.estimate(learner.environment.collect(learner.actor, learner.options.size))
    steps = batch.steps
    valid, advantages = steps["valid"], steps["advantages"]
    count = per_run(valid)
    mean = per_run(advantages) / count
    evaluation = learner.actor.evaluate(batch.samples)
    reduction = Reduction(learner.components["aggregation"], valid, steps["ends"])
    loss, _ = reduction(learner.policy_loss(batch.samples, steps, evaluation))
    score = -per_run(advantages * clean(evaluation.log_probs, valid)) / count
    gradient, reference = (_gradient(learner.actor, x) for x in (loss, score))
    norm = reference.norm(dim=1)
    return {
        "loss": loss.detach(),
        "mean_advantage": mean,
        "loss_plus_mean_advantage": (loss.detach() + mean).abs(),
        "grad_norm": gradient.norm(dim=1),
        "gradient_difference": (gradient - reference).norm(dim=1) / norm,
    }


def _gradient(actor: Any, loss: Tensor) -> Tensor:
    """Return ``[runs, parameters]``: the gradient of each run's loss."""
    parameters = list(actor.parameters())
    parts = torch.autograd.grad(loss.sum(), parameters, retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten(1) for g in parts if g is not None], dim=1)
