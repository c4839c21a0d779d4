"""Where rlhf_lab keeps what it can make again: a folder of the user's own, ``XDG_CACHE_HOME`` or ``~/.cache``."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["cache_folder", "keep"]


def cache_folder(name: str) -> Path:
    """Return the folder for ``name``; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rlhf_lab" / name


def keep(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none; raises ``OSError`` where that is impossible."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{secrets.token_hex(8)}.part")
    # with the permissions of any new file of the user's, where tempfile's are for the user alone
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
