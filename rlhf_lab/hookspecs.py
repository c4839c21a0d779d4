"""The hooks of a plugin. All are prefixed ``rlhf_lab_``; mark implementations with ``rlhf_lab.hookimpl``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from rlhf_lab.components import Component

__all__ = [
    "rlhf_lab_components",
    "rlhf_lab_properties",
    "rlhf_lab_run_end",
    "rlhf_lab_run_start",
    "rlhf_lab_run_step",
    "rlhf_lab_studies",
]

_hookspec: Final = pluggy.HookspecMarker("rlhf_lab")


@_hookspec
def rlhf_lab_components() -> Iterable[type[Component]]:  # type: ignore[empty-body]
    """Return the component classes that the plugin provides."""


@_hookspec
def rlhf_lab_properties() -> Iterable[Any]:  # type: ignore[empty-body]
    """Return laws (``Property`` objects) that the plugin adds for its own claims."""


@_hookspec
def rlhf_lab_studies() -> Iterable[Path]:  # type: ignore[empty-body]
    """Return paths of named study files; the file's stem is the study's name."""


@_hookspec
def rlhf_lab_run_start(arm: str, spec: Mapping[str, Any], seeds: list[int]) -> None:
    """Observe that an arm begins, with its resolved spec."""


@_hookspec
def rlhf_lab_run_step(arm: str, iteration: int, metrics: Mapping[str, Any]) -> None:
    """Observe one recorded point of an arm: each metric is one number per seed."""


@_hookspec
def rlhf_lab_run_end(arm: str, metrics: Mapping[str, Any]) -> None:
    """Observe that an arm has ended, with its last recorded metrics."""
