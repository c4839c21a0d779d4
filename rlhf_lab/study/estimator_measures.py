"""What is measured of the first update alone, and exact errors of estimators; the policy is the untrained one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.spec import RunSpec
from rlhf_lab.study.measures import policy_table
from rlhf_lab.training.step import Reduction, per_run
from rlhf_lab.types import clean
from rlhf_lab.worlds.estimator_error import estimator_error, gradient_error
from rlhf_lab.worlds.protocol import ExactWorld, open_actions

__all__ = ["STATIC", "exact_quantities", "first_update"]

STATIC = frozenset({"estimator_error", "gradient_error"})


def exact_quantities(measures: frozenset[str], spec: RunSpec, seed: int) -> dict[str, float]:
    """Return the exact error of the spec's estimator, and of its gradient, at the initial policy. No sampling.

    Where worlds or initial policies differ by seed, they are those of ``seed``.
    """
    streams = Streams([seed])
    environment = spec.environment.build(1, 1, streams["environment"])
    world = environment.exact()
    if world is None:
        raise LabError(f"environment {spec.environment.name!r} has no exact world, so no exact error can be computed")
    if spec.advantage is None:
        raise LabError("estimator_error and gradient_error need an advantage; add `advantage: NAME` to the spec")
    if spec.advantage.scope == "group" and spec.exact.samples < 2:
        raise LabError(
            f"exact.samples: advantage {spec.advantage.name!r} compares the episodes of a group; give 2 or more"
        )
    actor = spec.policy.build(environment.spaces, 1, streams["policy"])
    world = world.of_run(0)
    policy = policy_table(actor, world)[0]
    values = world.state_values(policy)
    settings = spec.exact
    critic = (values if settings.critic == "exact" else torch.zeros_like(values)) + settings.critic_error * _pattern(
        world, values
    )
    found: dict[str, float] = {}
    if "estimator_error" in measures:
        error = estimator_error(
            world, policy, spec.advantage, critic, horizon=settings.horizon, samples=settings.samples
        )
        found |= {
            "bias": float(error.bias),
            "squared_bias": float(error.squared_bias),
            "variance": float(error.variance),
            "mse": float(error.mse),
        }
    if "gradient_error" in measures:
        if spec.objective is None:
            raise LabError("gradient_error needs an objective; add `objective: NAME` to the spec")
        gradient = gradient_error(
            world,
            policy,
            spec.advantage,
            spec.objective,
            critic,
            horizon=settings.horizon,
            samples=settings.samples,
            normalizer=spec.normalizer,
            jacobian=_jacobian(actor, world),
        )
        found |= {
            "gradient_bias": float(gradient.relative_bias),
            "gradient_variance": float(gradient.variance_trace),
            "gradient_cosine": float(gradient.cosine),
        }
    return found


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


def _pattern(world: ExactWorld, values: Tensor) -> Tensor:
    """Return a fixed critic error ``[states]``: noise with the values' root mean square, 0 at terminal states."""
    noise = Streams([0], "critic error").normals(0, len(world.terminal))[0].masked_fill(world.terminal, 0)
    rms = noise[~world.terminal].square().mean().sqrt()
    return noise / rms * values[~world.terminal].square().mean().sqrt()


def _jacobian(actor: Any, world: ExactWorld) -> Tensor:
    """Return ``[states, actions, parameters]``: the gradient of each log-probability."""
    states = torch.arange(len(world.terminal))[None]
    legal = open_actions(world)
    mask = None if legal is None else legal[None]
    log_probs = actor.action_log_probs(states, mask)[0]
    parameters = list(actor.parameters())
    rows = []
    for entry in log_probs.flatten():
        if not bool(entry.isfinite()):  # an illegal action has no gradient
            rows.append(torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64))
            continue
        parts = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True)]
        rows.append(torch.cat([g.flatten() for g in flat]).double())
    return torch.stack(rows).view(*log_probs.shape, -1)
