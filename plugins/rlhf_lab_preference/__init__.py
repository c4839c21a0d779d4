"""Reward-model and preference objectives, and preference data from files."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component

__all__: list[str] = []


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components of this plugin."""
    return []
