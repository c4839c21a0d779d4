"""Where rlhf_lab keeps what it can make again: a folder of the user's own, ``XDG_CACHE_HOME`` or ``~/.cache``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "keep"]


def cache_folder(name: str) -> Path:
    """Return the folder for ``name``; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rlhf_lab" / name


def keep(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none; raises ``OSError`` where that is impossible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
