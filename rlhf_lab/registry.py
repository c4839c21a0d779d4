"""Which components exist, and where each comes from.

Requirements this file meets:
- plugins are found through the entry-point group ``rlhf_lab``, first-party ones exactly as a third party's;
- one broken plugin never stops the others: it is remembered with its reason and shown where it hurts;
- the same (role, name) from two sources is ambiguous and served to nobody; the error names both;
- sorted, hence the same order on every machine; ``RLHF_LAB_PLUGINS`` restricts what is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pluggy
from packaging.requirements import Requirement
from pydantic import ValidationError

from rlhf_lab import CONTRACT, hookspecs
from rlhf_lab.components import Component
from rlhf_lab.errors import LabError, did_you_mean

__all__ = ["Broken", "Origin", "Registry", "UnknownComponentError", "load_plugins"]

GROUP: Final = "rlhf_lab"
ALLOW_LIST: Final = "RLHF_LAB_PLUGINS"


class UnknownComponentError(LabError, LookupError):
    """No component of that role and name is served: unknown, ambiguous, or its plugin is broken."""


@dataclass(frozen=True)
class Broken:
    """A plugin that was not loaded, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Origin:
    """Where a component comes from."""

    source: str
    distribution: str
    version: str
    module: str
    file: str
    line: int


@dataclass(frozen=True)
class _Source:
    label: str
    distribution: str
    version: str
    load: Any  # () -> ModuleType


class Registry:
    """The components, studies, laws and observers of all sound plugins."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self.studies: dict[str, list[Path]] = {}
        self.properties: list[Any] = []
        self._found: dict[tuple[str, str], list[tuple[type[Component], Origin]]] = {}
        self._observers = _manager()

    @property
    def hook(self) -> Any:
        """The observer hooks of all plugins (``hook.rlhf_lab_run_step(...)``)."""
        return self._observers.hook

    def components(self, role: str | None = None) -> list[type[Component]]:
        """Return every unambiguous component, sorted by role and name."""
        return [
            found[0][0]
            for (its_role, _), found in sorted(self._found.items())
            if len(found) == 1 and role in (None, its_role)
        ]

    def roles(self) -> list[str]:
        """Return the roles that have a component."""
        return sorted({role for role, _ in self._found})

    def origin(self, component: type[Component]) -> Origin:
        """Return where a registered component comes from."""
        for cls, origin in self._found.get((component.role, component.name), []):
            if cls is component:
                return origin
        raise UnknownComponentError(f"{component.__qualname__} is not registered.")

    def get(self, role: str, name: str) -> type[Component]:
        """Return the component class; raises ``UnknownComponentError`` where it is unknown or ambiguous."""
        found = self._found.get((role, name), [])
        if len(found) == 1:
            return found[0][0]
        if found:
            places = " and ".join(f"{o.source} ({o.file}:{o.line})" for _, o in found)
            raise UnknownComponentError(
                f"{role} {name!r} is ambiguous: {places} both provide it. Rename one, or restrict {ALLOW_LIST}."
            )
        names = [n for r, n in self._found if r == role]
        if not names:
            possible = f"No {role} is registered. Roles: {', '.join(self.roles()) or 'none'}."
        else:
            possible = did_you_mean(name, names)
        raise UnknownComponentError(f"no {role} is called {name!r}. {possible}{self._broken_hint()}")

    def find(self, name: str) -> type[Component]:
        """Return the component called ``name`` or ``role/name``, as the command line names it."""
        role, _, bare = name.rpartition("/")
        if role:
            return self.get(role, bare)
        roles = [r for r, n in self._found if n == name]
        if len(roles) > 1:
            raise UnknownComponentError(
                f"{name!r} is a component of several roles; say {' or '.join(f'{r}/{name}' for r in sorted(roles))}."
            )
        if not roles:
            hint = did_you_mean(name, (n for _, n in self._found))
            raise UnknownComponentError(f"no component is called {name!r}. {hint}{self._broken_hint()}")
        return self.get(roles[0], name)

    def create(self, role: str, spec: Mapping[str, Any] | str | Component) -> Component:
        """Return the component of ``{"name": ..., **parameters}``; raises ``LabError`` naming each bad parameter."""
        if isinstance(spec, Component):
            return spec
        params = {"name": spec} if isinstance(spec, str) else dict(spec)
        if not isinstance(params.get("name"), str):
            raise LabError(f"{role}: expected a name or a mapping with 'name', found {spec!r}")
        component = self.get(role, params.pop("name"))
        try:
            return component.model_validate(params, context={"registry": self})
        except ValidationError as error:
            raise LabError(describe(error, prefix=(role,), fields=component.model_fields)) from None

    def _broken_hint(self) -> str:
        return "".join(f"\nNot loaded: {b.source}: {b.reason}" for b in self.broken)

    def _add(self, source: _Source, module: ModuleType) -> None:
        """Take over everything a plugin offers, or nothing of it."""
        components = [(cls, _origin(source, cls)) for cls in _contents(module, "rlhf_lab_components")]
        for cls, _ in components:
            if not (isinstance(cls, type) and issubclass(cls, Component)):
                raise TypeError(f"rlhf_lab_components returned {cls!r}, which is no Component class")
            for attribute in ("role", "name"):
                if not isinstance(getattr(cls, attribute, None), str):
                    raise TypeError(f"{cls.__qualname__} has no {attribute}; add `{attribute} = ...`")
            if inspect.isabstract(cls):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                raise TypeError(f"{cls.__qualname__} does not define {missing}")
        studies = [Path(path) for path in _contents(module, "rlhf_lab_studies")]
        for path in studies:
            if not path.is_file():
                raise FileNotFoundError(f"rlhf_lab_studies names {path}, which is not a file")
        laws = list(_contents(module, "rlhf_lab_properties"))
        self._observers.register(module)
        self.properties += laws
        for path in studies:
            self.studies.setdefault(path.stem, []).append(path)
        for cls, origin in components:
            found = self._found.setdefault((cls.role, cls.name), [])
            if all(cls is not other for other, _ in found):
                found.append((cls, origin))


def load_plugins(extra: Iterable[str | ModuleType] = ()) -> Registry:
    """Return a registry of the installed plugins and of ``extra`` ones: files ``my.py``, module names, or modules."""
    registry = Registry()
    for source in [*_installed(), *map(_extra, extra)]:
        try:
            module = source.load()
            _check(module)
            registry._add(source, module)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}" if not isinstance(error, LabError) else str(error)
            registry.broken.append(Broken(source.label, reason))
    return registry


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _installed() -> list[_Source]:
    allowed = os.environ.get(ALLOW_LIST)
    names = None if allowed is None else {name.strip() for name in allowed.split(",") if name.strip()}
    entries: dict[tuple[str, str, str], metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist else "unknown"
        if names is None or entry.name in names or distribution in names:
            entries.setdefault((distribution, entry.name, entry.value), entry)
    return [
        _Source(
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
        if requirement.name.replace("_", "-").lower() == "rlhf-lab" and requirement.marker is None:
            host = metadata.version("rlhf-lab")
            if not requirement.specifier.contains(host, prereleases=True):
                raise LabError(f"needs rlhf-lab{requirement.specifier}, but {host} is installed")
    module: ModuleType = entry.load()
    return module


def _extra(plugin: str | ModuleType) -> _Source:
    if isinstance(plugin, ModuleType):
        return _Source(plugin.__name__, "local", "", lambda: plugin)
    if plugin.endswith(".py") or os.sep in plugin:
        return _Source(plugin, "local", "", lambda: _load_file(Path(plugin)))
    return _Source(plugin, "local", "", lambda: importlib.import_module(plugin))


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LabError(f"there is no file {path}; looked in {Path.cwd()}")
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


def _check(module: ModuleType) -> None:
    """Refuse a plugin that was written for another contract, misspells a hook, or has none."""
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
        raise LabError(f"has no hook. Possible: {', '.join(sorted(hooks))}")


def _contents(module: ModuleType, hook: str) -> Iterable[Any]:
    manager = _manager()
    manager.register(module)
    return [item for items in getattr(manager.hook, hook)() for item in items]


def _origin(source: _Source, cls: type[Component]) -> Origin:
    try:
        file = inspect.getsourcefile(cls) or "unknown"
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        file, line = "unknown", 0
    return Origin(source.label, source.distribution, source.version, cls.__module__, file, line)


def describe(
    error: ValidationError,
    prefix: tuple[str, ...] = (),
    fields: Iterable[str] = (),
    where: Mapping[tuple[str, ...], str] | None = None,
) -> str:
    """Return one line per error: place in the file, dotted path, what is wrong, what was given, and the nearest field."""
    lines = []
    for item in error.errors(include_url=False):
        keys = tuple(map(str, item["loc"]))
        path = ".".join((*prefix, *keys)) or "value"
        place = next((where[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in where), "") if where else ""
        if item["type"] == "extra_forbidden":
            what = "is no parameter here"
            if len(keys) == 1 and fields:
                what += f". {did_you_mean(keys[-1], fields)}"
        elif item["type"] in ("missing", "component", "value_error"):
            what = item["msg"].removeprefix("Value error, ")
        else:
            what = f"{item['msg']}, found {item['input']!r}"
        lines.append(f"{place}: {path}: {what}" if place else f"{path}: {what}")
    return "\n".join(lines)
