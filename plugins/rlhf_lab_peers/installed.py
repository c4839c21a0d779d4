"""Whether a peer is there, told without importing it."""

from __future__ import annotations

from importlib.util import find_spec

from rlhf_lab.errors import MissingExtraError

__all__ = ["require"]


def require(module: str, distribution: str) -> None:
    """Raise ``MissingExtraError`` where a peer's module cannot be found."""
    if find_spec(module) is None:
        raise MissingExtraError(f"{distribution} is not installed; pip install 'rlhf-lab[bench]'")
