"""A plugin package to start from: one sound component, tests that verify it, and a README."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["ROLES", "write_plugin"]

_TEMPLATES: Final = Path(__file__).parent / "templates" / "plugin"

_SUMMARIES: Final = {
    "advantage": "An advantage estimator",
    "normalizer": "An advantage normalizer",
    "objective": "A policy objective",
    "value": "A critic loss",
    "kl": "A KL estimator",
    "aggregation": "An aggregation of losses",
    "controller": "A controller of a KL coefficient",
    "preference": "A preference loss",
    "reward_model": "A loss of a reward model",
}
ROLES: Final = tuple(_SUMMARIES)
"""The roles that there is a skeleton for: those that verification has laws for."""


def write_plugin(name: str, role: str, out: Path | None = None) -> Path:
    """Write a plugin package with a component ``name`` of ``role`` into the new folder ``out``; return the folder.

    Raises ``LabError`` for a role without skeleton, a bad name, and a folder that exists.
    """
    if role not in ROLES:
        raise LabError(f"--role {role}: there is no skeleton for it. {did_you_mean(role, ROLES)}")
    _check(name)
    directory = out or Path(name)
    if directory.exists():
        raise LabError(f"{directory} exists already; choose another --out")
    class_name = "".join(word.capitalize() for word in name.split("_"))
    known = {
        "name": name,
        "class_name": class_name,
        "role": role,
        "asked": f"{role}/{name}",
        "summary": _SUMMARIES[role],
        "distribution": name.replace("_", "-"),
        "host": metadata.version("rlhf-lab"),
    }
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"src/{name}/__init__.py": f"{role}.py.j2",
        f"src/{name}/py.typed": None,
        f"tests/test_{name}.py": "test.py.j2",
    }
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    try:
        for path, template in files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                "" if template is None else templates.get_template(template).render(known), encoding="utf-8"
            )
    except OSError as error:
        raise LabError(f"cannot write in {directory}: {error}") from None
    return directory


def _check(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise LabError(f"{name!r} cannot name a package; use lower-case words joined by _, as in my_gae")
    spec = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or (spec is not None and spec.origin is not None):
        raise LabError(f"{name!r} is the name of a Python module that is there already; choose another")
