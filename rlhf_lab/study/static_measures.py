"""Exact quantities of a spec before any training, by name of the measure. No sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.spec import RunSpec
from rlhf_lab.study.estimator_measures import advantage_errors, gradient_errors
from rlhf_lab.study.exact_values import exact_values
from rlhf_lab.study.measures import policy_table
from rlhf_lab.study.optimum_measures import advantage_signs, paid_optimum
from rlhf_lab.training.protocols import BuiltEnvironment
from rlhf_lab.worlds.protocol import ExactWorld

__all__ = ["STATIC", "Untrained", "exact_quantities", "untrained"]


@dataclass(frozen=True)
class Untrained:
    """What a static measure may look at: one run, before any training."""

    spec: RunSpec
    environment: BuiltEnvironment
    world: ExactWorld
    actor: Any
    policy: Tensor  # [states, actions]


_MEASURES: Final[Mapping[str, Callable[[Untrained], dict[str, float]]]] = {
    "estimator_error": lambda run: advantage_errors(run.spec, run.world, run.actor, run.policy),
    "gradient_error": lambda run: gradient_errors(run.spec, run.world, run.actor, run.policy),
    "exact_values": lambda run: exact_values(run.world, run.policy),
    "advantage_signs": lambda run: advantage_signs(run.world, run.policy),
    "paid_optimum": lambda run: paid_optimum(run.environment, run.world),
}
STATIC: Final = frozenset(_MEASURES)


def untrained(spec: RunSpec, seed: int) -> Untrained:
    """Return the run of ``seed`` before any training; raises ``LabError`` where its world is not known."""
    streams = Streams([seed])
    environment = spec.environment.build(1, 1, streams["environment"])
    world = environment.exact()
    if world is None:
        raise LabError(f"environment {spec.environment.name!r} has no exact world, so nothing of it is known exactly")
    actor = spec.policy.build(environment.spaces, 1, streams["policy"])
    world = world.of_run(0)
    return Untrained(spec, environment, world, actor, policy_table(actor, world)[0])


def exact_quantities(measures: frozenset[str], run: Untrained) -> dict[str, float]:
    """Return what the static ones among ``measures`` find at the initial policy."""
    return {
        quantity: value
        for name, measure in _MEASURES.items()
        if name in measures
        for quantity, value in measure(run).items()
    }
