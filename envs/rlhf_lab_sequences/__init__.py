"""Token sequences of which every response is known: the world of preference learning, its rewards and its data."""

from __future__ import annotations

from rlhf_lab import hookimpl
from rlhf_lab.components import Component

__all__: list[str] = []


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    """Return the components of this plugin."""
    return []
