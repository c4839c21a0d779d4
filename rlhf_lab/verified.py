"""What verification found, remembered in the user's cache folder, so that ``show`` can tell it.

A record stands for one state of a component's code: with another version, host or file content it is not believed. A
cache that cannot be read or written is an empty one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_lab.cache import cache_folder, keep

if TYPE_CHECKING:
    from rlhf_lab.components import Component
    from rlhf_lab.registry import Origin

__all__ = ["Found", "recall", "remember"]


@dataclass(frozen=True)
class Found:
    """The last verdict on a property."""

    status: str
    examples: int
    day: str


def remember(component: type[Component], origin: Origin, verdicts: Iterable[tuple[str, str, int]]) -> None:
    """Add verdicts (id, status, examples) to the component's record, or do nothing where that is impossible."""
    found = recall(component, origin)
    today = date.today().isoformat()
    found |= {name: Found(status, examples, today) for name, status, examples in verdicts}
    content = {"of": _state(component, origin), "verdicts": {name: vars(each) for name, each in sorted(found.items())}}
    path = _path(component, origin)
    try:
        keep(path, json.dumps(content, indent=1).encode())
    except OSError:
        return


def recall(component: type[Component], origin: Origin) -> dict[str, Found]:
    """Return the last verdicts by property, of the component as it is now."""
    try:
        content: Any = json.loads(_path(component, origin).read_text(encoding="utf-8"))
        if content["of"] != _state(component, origin):
            return {}
        return {
            str(name): Found(str(each["status"]), int(each["examples"]), str(each["day"]))
            for name, each in content["verdicts"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # missing, or damaged in some way
        return {}


def _path(component: type[Component], origin: Origin) -> Path:
    key = hashlib.sha256("\n".join((component.role, component.name, origin.distribution, origin.file)).encode())
    readable = re.sub(r"[^\w.@-]", "_", f"{component.role}-{component.name}")
    return cache_folder("verified") / f"{readable}-{key.hexdigest()[:12]}.json"


def _state(component: type[Component], origin: Origin) -> dict[str, str]:
    """Return what tells two states of a component's code apart."""
    return {
        "component": f"{component.role}/{component.name}",
        "version": f"{origin.distribution} {origin.version}".strip(),
        "host": metadata.version("rlhf-lab"),
        "sha256": _digest(Path(origin.file)),
    }


def _digest(file: Path) -> str:
    """Return the digest of the defining file and, in a package, of the modules beside it, on which it may rest."""
    beside = sorted(file.parent.glob("*.py")) if (file.parent / "__init__.py").is_file() else [file]
    digest = hashlib.sha256()
    for path in beside:
        try:
            digest.update(path.read_bytes())
        except OSError:
            digest.update(b"unreadable")
    return digest.hexdigest()
