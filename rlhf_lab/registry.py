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
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import TypeAdapter, ValidationError

from rlhf_lab import CONTRACT, hookspecs
from rlhf_lab.components import Component, Slot
from rlhf_lab.errors import LabError, complaint, did_you_mean

__all__ = ["Broken", "Origin", "Registry", "UnknownComponentError", "describe", "load_plugins", "located"]

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
        """Return the component of a name or ``{"name": ..., **parameters}``; raises ``LabError`` naming all errors."""
        place: TypeAdapter[Component] = TypeAdapter(Annotated[Component, Slot(role)])
        try:
            return place.validate_python(spec, context={"registry": self})
        except ValidationError as error:
            raise LabError(describe(error, prefix=(role,))) from None

    def _broken_hint(self) -> str:
        return "".join(f"\nNot loaded: {b.source}: {b.reason}" for b in self.broken)

    def _add(self, source: _Source, module: ModuleType) -> None:
        """Take over everything a plugin offers, or nothing of it."""
        if self._observers.is_registered(module):
            return  # known already, by another name
        classes = _contents(module, "rlhf_lab_components")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Component)):
                raise TypeError(f"rlhf_lab_components returned {cls!r}, which is no Component class")
            for attribute in ("role", "name"):
                if not isinstance(getattr(cls, attribute, None), str):
                    raise TypeError(f"{cls.__qualname__} has no {attribute}; add `{attribute} = ...`")
            if inspect.isabstract(cls):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                raise TypeError(f"{cls.__qualname__} is abstract: it does not define {missing}")
        studies = [Path(path) for path in _contents(module, "rlhf_lab_studies")]
        for path in studies:
            if not path.is_file():
                raise FileNotFoundError(f"rlhf_lab_studies names {path}, which is not a file")
        laws = _contents(module, "rlhf_lab_properties")
        self._observers.register(module)
        self.properties += laws
        for path in studies:
            self.studies.setdefault(path.stem, []).append(path)
        for cls in classes:
            found = self._found.setdefault((cls.role, cls.name), [])
            if all(cls is not other for other, _ in found):
                found.append((cls, _origin(source, cls)))


def load_plugins(extra: Iterable[str | ModuleType] = ()) -> Registry:
    """Return a registry of the installed plugins and of ``extra`` ones: files ``my.py``, module names, or modules."""
    registry = Registry()
    plugins = [extra] if isinstance(extra, str) else dict.fromkeys(extra)
    for source in [*_installed(registry.broken), *map(_extra, plugins)]:
        try:
            module = source.load()
            _check(module)
            registry._add(source, module)
        except (Exception, SystemExit) as error:
            registry.broken.append(Broken(source.label, _reason(error)))
    return registry


def _reason(error: BaseException) -> str:
    """Return what went wrong and, where the plugin's own code raised it, in which of its lines."""
    if isinstance(error, LabError):
        return str(error)
    ours = (__file__, importlib.__file__, metadata.__file__)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename not in ours and not f.filename.startswith("<frozen ")]
    place = f" ({theirs[0].filename}:{theirs[0].lineno})" if theirs else ""
    return f"{type(error).__name__}: {error}{place}"


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _installed(broken: list[Broken]) -> list[_Source]:
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
        if canonicalize_name(requirement.name) != "rlhf-lab":
            continue
        host = metadata.version("rlhf-lab")
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(host, prereleases=True):
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


def _check(module: ModuleType) -> None:
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
        raise LabError(f"has no hook. Possible: {', '.join(sorted(hooks))}")
    _manager().register(module)  # pluggy checks the arguments, here where nothing of a bad plugin is kept


def _contents(module: ModuleType, hook: str) -> list[Any]:
    """Return what a plugin's hook offers. Asked directly: pluggy would drop an answer of None without a word."""
    items: Any = getattr(module, hook, list)()
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise TypeError(f"{hook} returned {items!r}; return a list")
    return list(items)


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
    """Return one line per error: place in the file, dotted path, what is wrong, what was given, what is possible."""
    lines = []
    for item in error.errors(include_url=False):
        keys = tuple(map(str, item["loc"]))
        path = ".".join((*prefix, *keys))
        lines.append(located(f"{path}: {complaint(item, fields)}" if path else complaint(item, fields), keys, where))
    return "\n".join(lines)


def located(message: str, keys: tuple[str, ...], where: Mapping[tuple[str, ...], str] | None) -> str:
    """Return the message with the place in the file of ``keys``, or of the nearest key above them, before it."""
    place = next((where[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in where), "") if where else ""
    return f"{place}: {message}" if place else message
