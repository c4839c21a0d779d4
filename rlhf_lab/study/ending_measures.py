"""How episodes end, and after how many steps, in worlds that tell."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rlhf_lab.errors import LabError
from rlhf_lab.training.protocols import Learner
from rlhf_lab.worlds.greedy import greedy_policy
from rlhf_lab.worlds.protocol import EndingWorld, ExactWorld

__all__ = ["ends", "probabilities_of_ends"]


def ends(
    learner: Learner, world: ExactWorld, reference: Tensor
) -> tuple[Callable[[Tensor], dict[str, Tensor]], dict[str, dict[str, float]]]:
    """Measure ``probability_of_<end>`` for every end that the world knows, and ``steps_to_<end>``.

    Levels are those of the uniform policy, and of the optimal one that is uniform over all optimal actions; the
    untrained policy, ``reference``, is not asked. Raises ``LabError`` where the world does not tell its ends.
    """
    if not isinstance(world, EndingWorld):
        raise LabError("measure: ends needs a world that tells how its episodes end; this environment's does not")
    telling = world

    def measured(policy: Tensor) -> dict[str, Tensor]:
        found = telling.ending(policy)
        steps = {f"steps_to_{end}": x for end, x in found.steps.items()}
        return {f"probability_of_{end}": x for end, x in found.probability.items()} | steps

    levels: dict[str, dict[str, float]] = {}
    known = {"optimum": greedy_policy(world.optimal_action_values()), "uniform": world.uniform_policy()}
    for level, policy in known.items():
        for name, value in measured(policy).items():
            levels.setdefault(name, {})[level] = float(value.mean())
    return measured, levels


def probabilities_of_ends(world: ExactWorld, policy: Tensor) -> dict[str, float]:
    """Return ``probability_of_<end>`` under one ``policy [s,a]``; nothing where the world does not tell its ends."""
    if not isinstance(world, EndingWorld):
        return {}
    return {f"probability_of_{end}": float(x) for end, x in world.ending(policy).probability.items()}
