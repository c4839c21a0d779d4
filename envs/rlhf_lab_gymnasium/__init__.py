"""Any registered Gymnasium environment as an environment component."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component
from rlhf_lab_gymnasium.environment import GymnasiumEnvironment

__all__ = ["GymnasiumEnvironment", "rlhf_lab_components"]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environment."""
    return [GymnasiumEnvironment]
