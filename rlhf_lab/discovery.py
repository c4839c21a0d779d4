"""Finding and loading plugin modules: installed entry points, files and module names.

A plugin that cannot be loaded is told of with its reason; it never stops the others.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlhf_lab import CONTRACT, hookspecs
from rlhf_lab.errors import LabError, did_you_mean

__all__ = [
    "ALLOW_LIST",
    "GROUP",
    "LOCAL",
    "Broken",
    "Source",
    "check",
    "contents",
    "installed",
    "load_file",
    "local",
    "manager",
    "reason",
]

GROUP: Final = "rlhf_lab"
ALLOW_LIST: Final = "RLHF_LAB_PLUGINS"
LOCAL: Final = "local"  # the distribution of a plugin that is given as a file, a module's name or a module


@dataclass(frozen=True)
class Broken:
    """A plugin that was not loaded, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A plugin that may be loaded."""

    label: str
    distribution: str
    version: str
    load: Any  # () -> ModuleType


def reason(error: BaseException) -> str:
    """Return what went wrong and, where the plugin's own code raised it, in which of its lines."""
    if isinstance(error, LabError):
        return str(error)
    ours = (str(Path(__file__).parent), importlib.__file__, metadata.__file__, "<frozen ")
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    place = f" ({theirs[0].filename}:{theirs[0].lineno})" if theirs else ""
    return f"{type(error).__name__}: {error}{place}"


def manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows our hooks."""
    plugins = pluggy.PluginManager(GROUP)
    plugins.add_hookspecs(hookspecs)
    return plugins


def installed(broken: list[Broken]) -> list[Source]:
    """Return the installed plugins that the allow-list lets through; what it names in vain goes to ``broken``."""
    entries: dict[tuple[str, str, str], metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        entries.setdefault((entry.dist.name if entry.dist else "unknown", entry.name, entry.value), entry)
    if ALLOW_LIST in os.environ:
        allowed = {name.strip() for name in os.environ[ALLOW_LIST].split(",")} - {""}
        known = {name for distribution, plugin, _ in entries for name in (distribution, plugin)}
        broken += [
            Broken(ALLOW_LIST, f"no plugin or distribution is called {name!r}. {did_you_mean(name, known)}")
            for name in sorted(allowed - known)
        ]
        entries = {key: entry for key, entry in entries.items() if allowed & {*key[:2]}}
    return [
        Source(
            label=f"{distribution}:{name}",
            distribution=distribution,
            version=entry.dist.version if entry.dist else "unknown",
            load=lambda entry=entry: _load_entry(entry),
        )
        for (distribution, name, _), entry in sorted(entries.items())
    ]


def _load_entry(entry: metadata.EntryPoint) -> ModuleType:
    for text in (entry.dist.requires or []) if entry.dist else []:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "rlhf-lab":
            continue
        host = metadata.version("rlhf-lab")
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(host, prereleases=True):
            raise LabError(f"needs rlhf-lab{requirement.specifier}, but {host} is installed")
    module: ModuleType = entry.load()
    return module


def local(plugin: str | ModuleType) -> Source:
    """Return the source of a plugin that is given as a file, a module's name or a module."""
    if isinstance(plugin, ModuleType):
        return Source(plugin.__name__, LOCAL, "", lambda: plugin)
    if plugin.endswith(".py") or os.sep in plugin:
        return Source(plugin, LOCAL, "", lambda: load_file(Path(plugin)))
    return Source(plugin, LOCAL, "", lambda: importlib.import_module(plugin))


def load_file(path: Path) -> ModuleType:
    """Return the module in a Python file; raises ``LabError`` where there is none, and whatever the file raises."""
    if not path.is_file():
        raise LabError("there is no such file" if path.is_absolute() else f"there is no such file in {Path.cwd()}")
    name = f"rlhf_lab_local_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LabError(f"{path} is no Python file; a plugin file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations through sys.modules
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def check(module: ModuleType) -> None:
    """Refuse a plugin that was written for another contract, misspells a hook or its arguments, or has none."""
    contract = getattr(module, "RLHF_LAB_CONTRACT", CONTRACT)
    if contract != CONTRACT:
        raise LabError(f"is written for plugin contract {contract}; this rlhf-lab has contract {CONTRACT}")
    hooks = set(hookspecs.__all__)
    marked = {n for n, f in inspect.getmembers(module, callable) if hasattr(f, "rlhf_lab_impl")}
    named = {n for n, f in inspect.getmembers(module, inspect.isfunction) if n.startswith("rlhf_lab_")}
    for name in sorted((marked | named) - hooks):
        raise LabError(f"{name!r} is no hook. {did_you_mean(name, hooks)}")
    for name in sorted(named - marked):
        raise LabError(f"{name!r} lacks the @hookimpl decorator, so it would never be called; import it from rlhf_lab")
    if not marked:
        own = [name for name, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
        raise LabError(
            "has no hook, so it offers nothing. To offer components, add\n"
            "    from rlhf_lab import hookimpl\n\n"
            f"    @hookimpl\n    def rlhf_lab_components():\n        return [{', '.join(own) or '...'}]\n"
            f"Other hooks: {', '.join(sorted(hooks - {'rlhf_lab_components'}))}"
        )
    manager().register(module)  # pluggy checks the arguments, here where nothing of a bad plugin is kept


def contents(module: ModuleType, hook: str) -> list[Any]:
    """Return what a plugin's hook offers. Asked directly: pluggy would drop an answer of None without a word."""
    items: Any = getattr(module, hook, list)()
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"{hook} returned {items!r}; return a list")
    return list(items)
