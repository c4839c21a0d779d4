"""Chess endings of which every move's true worth is known."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component

__all__ = ["rlhf_lab_components"]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the environments, opponents, rewards and records."""
    return []
