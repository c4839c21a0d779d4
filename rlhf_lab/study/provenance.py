"""What a result depends on besides its spec: versions, plugins, hardware. Free of torch, as is all that a report needs.

A study that goes on under another provenance keeps the earlier one, and lists the later ones under ``resumed``.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rlhf_lab.discovery import LOCAL
from rlhf_lab.errors import LabError

if TYPE_CHECKING:
    from rlhf_lab.components import Component
    from rlhf_lab.registry import Registry

__all__ = ["changed_file", "changed_plugin", "provenance", "resumed"]

PACKAGES: Final = ("rlhf-lab", "torch", "numpy", "numba", "gymnasium", "pydantic", "pluggy")


def provenance(
    registry: Registry, components: Iterable[Component], arms: list[str], seeds: list[int]
) -> dict[str, Any]:
    """Return versions, the plugins and the files that ``components`` rest on, hardware, arms and seeds as JSON data."""
    components = list(components)
    plugins = {tuple(_plugin(registry, each).items()) for each in {type(component) for component in components}}
    files = {path for component in components for path in component.files()}
    return {
        "arms": arms,
        "seeds": seeds,
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "plugins": [dict(plugin) for plugin in sorted(plugins)],
        "files": [{"name": str(path), "sha256": _content(path)} for path in sorted(files)],
        "not_loaded": [f"{broken.source}: {broken.reason}" for broken in registry.broken],
    }


def changed_plugin(held: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the name of a plugin whose code is not what it was, if there is one."""
    before, after = _states(held), _states(now)
    changed = [after[state] for state in after if state not in before]
    changed += [before[state] for state in before if state not in after]
    return next(iter(changed), None)


def changed_file(held: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the name of a file that is read and was not read before with this content, if there is one."""
    before = {file["sha256"] for file in held.get("files", ())}
    return next((file["name"] for file in now.get("files", ()) if file["sha256"] not in before), None)


def resumed(held: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the provenance of what was computed under ``held`` and of what is still to come."""
    earlier = {key: value for key, value in held.items() if key != "resumed"}
    earlier["arms"] = now["arms"]  # the same arms; their order may have been mended
    later = held.get("resumed", [])
    later = later if now in [earlier, *later] else [*later, now]
    return earlier | ({"resumed": later} if later else {})


def _states(provenance: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return the plugins' names by what tells their code apart, so that a file may be named by another path.

    Ours are left out: their version is rlhf-lab's own, which may differ as torch's may.
    """
    plugins = [plugin for plugin in provenance.get("plugins", ()) if isinstance(plugin, dict)]
    return {
        (plugin["distribution"], plugin.get("sha256") or plugin["version"]): plugin["name"]
        for plugin in plugins
        if plugin["distribution"] != "rlhf-lab"
    }


def _plugin(registry: Registry, component: type[Component]) -> dict[str, str]:
    """Return what tells two states of a component's plugin apart: a distribution's version, or a loose file's content.

    A component may be of no plugin, where a study in Python holds the object itself; then its module counts as one.
    """
    try:
        origin = registry.origin(component)
    except LookupError:
        return {"name": component.__module__, "distribution": LOCAL, "sha256": _digest(component)}
    known = {"name": origin.source, "distribution": origin.distribution}
    return known | ({"sha256": _digest(component)} if origin.distribution == LOCAL else {"version": origin.version})


def _content(path: Path) -> str:
    try:
        return _sha256(path)
    except OSError as error:
        raise LabError(f"cannot read {path}: {error}") from None


def _digest(component: type[Component]) -> str:
    try:
        return _sha256(Path(inspect.getfile(component)))
    except (OSError, TypeError):  # a class that was typed into a notebook has no file
        return "unknown"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a device file
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
