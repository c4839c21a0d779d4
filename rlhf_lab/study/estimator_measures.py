"""Exact errors of the spec's estimator, and of the gradient made from it: at the initial policy, and along a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from rlhf_lab.components import AdvantageEstimator, PolicyObjective
from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.spec import ExactSettings, RunSpec
from rlhf_lab.study.actor_scores import jacobian_of
from rlhf_lab.study.start_states import start_states
from rlhf_lab.training.protocols import Learner, PaidEnvironment
from rlhf_lab.worlds.estimator_error import estimator_error, gradient_error
from rlhf_lab.worlds.protocol import ExactWorld

__all__ = ["advantage_errors", "gradient_along", "gradient_errors"]

_GRADIENT: Final = ("gradient_bias", "gradient_variance", "gradient_noise", "gradient_cosine")


def advantage_errors(spec: RunSpec, world: ExactWorld, actor: Any, policy: Tensor) -> dict[str, float]:
    """Return bias, variance and MSE of the spec's estimator under ``policy [s,a]``, with the spec's exact settings."""
    settings = spec.exact
    error = estimator_error(
        world,
        policy,
        _estimator("estimator_error", spec),
        _critic(world, policy, settings),
        horizon=settings.horizon,
        samples=settings.samples,
        jacobian=jacobian_of(actor, world, 0),
        start=start_states(world, settings.starts),
        beyond=settings.beyond,
    )
    return {
        "bias": float(error.bias),
        "squared_bias": float(error.squared_bias),
        "variance": float(error.variance),
        "mse": float(error.mse),
    }


def gradient_errors(spec: RunSpec, world: ExactWorld, actor: Any, policy: Tensor) -> dict[str, float]:
    """Return the errors of the spec's gradient at ``policy [s,a]``, with the spec's exact settings."""
    return _gradient("gradient_error", spec, world, actor, 0, policy, _critic(world, policy, spec.exact))


def gradient_along(
    spec: RunSpec, learner: Learner, world: ExactWorld, reference: Tensor
) -> tuple[Callable[[Tensor], dict[str, Tensor]], dict[str, dict[str, float]]]:
    """Measure bias, variance, noise and cosine of the gradient at the present policy, with the run's own critic.

    The world is that of what is paid in training, where the environment tells it: what is judged is the estimator, not
    the reward. The critic is 0 where the policy has none; seeds that have failed are NaN. No level is known; the
    untrained policy, ``reference``, is not asked.
    """
    _estimator("gradient_along", spec)
    _objective("gradient_along", spec)
    environment = learner.environment
    paid = environment.paid() if isinstance(environment, PaidEnvironment) else world

    def measured(policy: Tensor) -> dict[str, Tensor]:
        actor: Any = learner.actor
        states = torch.arange(len(world.terminal)).expand(len(policy), -1)
        with torch.no_grad():
            values = actor.values(states)
        critic = policy.new_zeros(states.shape) if values is None else values.double()
        found = {name: policy.new_full((len(policy),), torch.nan) for name in _GRADIENT}
        for run in learner.alive.nonzero()[:, 0].tolist():
            errors = _gradient("gradient_along", spec, paid.of_run(run), actor, run, policy[run], critic[run])
            for name, error in errors.items():
                found[name][run] = error
        return found

    return measured, {}


def _gradient(
    measure: str, spec: RunSpec, world: ExactWorld, actor: Any, run: int, policy: Tensor, critic: Tensor
) -> dict[str, float]:
    """Return the errors of one run's gradient at ``policy [s,a]`` with the values ``critic [s]``."""
    settings = spec.exact
    error = gradient_error(
        world,
        policy,
        _estimator(measure, spec),
        _objective(measure, spec),
        critic,
        horizon=settings.horizon,
        samples=settings.samples,
        normalizer=spec.normalizer,
        jacobian=jacobian_of(actor, world, run),
        start=start_states(world, settings.starts),
        beyond=settings.beyond,
    )
    found = error.relative_bias, error.variance_trace, error.noise, error.cosine
    return dict(zip(_GRADIENT, found, strict=True))


def _estimator(measure: str, spec: RunSpec) -> AdvantageEstimator:
    """Return the spec's estimator; raises ``LabError`` where it cannot be judged."""
    if spec.advantage is None:
        raise LabError(f"{measure} needs an advantage; add `advantage: NAME` to the spec")
    if spec.advantage.scope == "group" and spec.exact.samples < 2:
        raise LabError(
            f"exact.samples: advantage {spec.advantage.name!r} compares the episodes of a group; give 2 or more"
        )
    return spec.advantage


def _objective(measure: str, spec: RunSpec) -> PolicyObjective:
    if spec.objective is None:
        raise LabError(f"{measure} needs an objective; add `objective: NAME` to the spec")
    return spec.objective


def _critic(world: ExactWorld, policy: Tensor, settings: ExactSettings) -> Tensor:
    """Return the values ``[states]`` that the settings give to the critic."""
    values = world.state_values(policy)
    known = values if settings.critic == "exact" else torch.zeros_like(values)
    return known + settings.critic_error * _pattern(world, values)


def _pattern(world: ExactWorld, values: Tensor) -> Tensor:
    """Return a fixed critic error ``[states]``: noise with the values' root mean square, 0 at terminal states."""
    noise = Streams([0], "critic error").normals(0, len(world.terminal))[0].masked_fill(world.terminal, 0)
    rms = noise[~world.terminal].square().mean().sqrt()
    return noise / rms * values[~world.terminal].square().mean().sqrt()
