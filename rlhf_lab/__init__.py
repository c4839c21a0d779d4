"""rlhf_lab: a laboratory for the algorithms of RLHF in which the truth is known.

Heavy parts (torch, pandas) are imported when they are first used, so that ``rlhf-lab --help`` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pluggy

if TYPE_CHECKING:
    from rlhf_lab.conformance import verify
    from rlhf_lab.study.api import compare, run
    from rlhf_lab.study.results import Results

__all__ = ["CONTRACT", "Results", "compare", "hookimpl", "run", "verify"]

CONTRACT: Final = 1
"""Version of the plugin contract. A plugin module may pin it with ``RLHF_LAB_CONTRACT = 1``."""

hookimpl: Final = pluggy.HookimplMarker("rlhf_lab")

_LAZY: Final = {
    "Results": "rlhf_lab.study.results",
    "compare": "rlhf_lab.study.api",
    "run": "rlhf_lab.study.api",
    "verify": "rlhf_lab.conformance",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rlhf_lab' has no attribute {name!r}")
