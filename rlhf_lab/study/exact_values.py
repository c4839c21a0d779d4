"""What is known exactly of a world and of a policy in it, before any training."""

from __future__ import annotations

from torch import Tensor

from rlhf_lab.worlds.protocol import ExactWorld

__all__ = ["exact_values"]


def exact_values(world: ExactWorld, policy: Tensor) -> dict[str, float]:
    """Return a world's size, its best return, and where ``policy [s,a]`` and the uniform one stand.

    ``states`` are those that are not terminal, whether visited or not; ``optimal_value``, ``initial_value`` and
    ``uniform_value`` are returns J from the start distribution; ``gradient_norm`` is ‖∇J‖ of ``policy`` in the logits
    of a table, whatever parameters the policy has.
    """
    return {
        "states": float((~world.terminal).sum()),
        "optimal_value": float(world.optimal_return()),
        "initial_value": float(world.expected_return(policy)),
        "uniform_value": float(world.expected_return(world.uniform_policy())),
        "gradient_norm": float(world.policy_gradient(policy).norm()),
    }
