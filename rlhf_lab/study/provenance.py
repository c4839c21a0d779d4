"""What a result depends on besides its spec: versions, plugins, hardware."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any, Final

from rlhf_lab.registry import Registry

__all__ = ["provenance"]

PACKAGES: Final = ("rlhf-lab", "torch", "numpy", "numba", "gymnasium", "pydantic", "pluggy")


def provenance(registry: Registry, arms: list[str], seeds: list[int]) -> dict[str, Any]:
    """Return versions, plugin sources, hardware, arms and seeds as JSON data."""
    sources = sorted({registry.origin(component).source for component in registry.components()})
    return {
        "arms": arms,
        "seeds": seeds,
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "plugins": sources,
        "not_loaded": [f"{broken.source}: {broken.reason}" for broken in registry.broken],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a device file
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
