"""Exact quantities of a spec before any training, by name of the measure. No sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.random import Streams
from rlhf_lab.spec import RunSpec
from rlhf_lab.study.estimator_measures import advantage_errors, gradient_errors
from rlhf_lab.study.measures import policy_table
from rlhf_lab.worlds.protocol import ExactWorld

__all__ = ["STATIC", "exact_quantities"]

Measure = Callable[[RunSpec, ExactWorld, Any, Tensor], dict[str, float]]
"""Of the spec, the world, the untrained actor of one run and its policy ``[states, actions]``."""

_MEASURES: Final[Mapping[str, Measure]] = {
    "estimator_error": advantage_errors,
    "gradient_error": gradient_errors,
}
STATIC: Final = frozenset(_MEASURES)


def exact_quantities(measures: frozenset[str], spec: RunSpec, seed: int) -> dict[str, float]:
    """Return what the static ones among ``measures`` find at the initial policy.

    Where worlds or initial policies differ by seed, they are those of ``seed``.
    """
    streams = Streams([seed])
    environment = spec.environment.build(1, 1, streams["environment"])
    world = environment.exact()
    if world is None:
        raise LabError(f"environment {spec.environment.name!r} has no exact world, so no exact error can be computed")
    actor = spec.policy.build(environment.spaces, 1, streams["policy"])
    world = world.of_run(0)
    policy = policy_table(actor, world)[0]
    found: dict[str, float] = {}
    for name, measure in _MEASURES.items():
        if name in measures:
            found |= measure(spec, world, actor, policy)
    return found
