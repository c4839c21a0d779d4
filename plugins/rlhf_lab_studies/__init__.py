"""The named studies: YAML files beside this one, found by ``rlhf-lab compare NAME``."""

from __future__ import annotations

from pathlib import Path

from rlhf_lab import hookimpl

__all__: list[str] = []


@hookimpl
def rlhf_lab_studies() -> list[Path]:
    """Return the study files."""
    return sorted(Path(__file__).parent.glob("*.yaml"))
