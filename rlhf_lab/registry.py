"""Which components exist, and where each comes from.

Requirements this file meets:
- plugins are found through the entry-point group ``rlhf_lab``, first-party ones exactly as a third party's;
- one broken plugin never stops the others: it is remembered with its reason and shown where it hurts;
- the same (role, name) from two sources is ambiguous and served to nobody; the error names both;
- sorted, hence the same order on every machine; ``RLHF_LAB_PLUGINS`` restricts what is loaded.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from rlhf_lab import discovery
from rlhf_lab.components import Component, Slot
from rlhf_lab.discovery import ALLOW_LIST, Broken, Source
from rlhf_lab.errors import LabError, MissingExtraError, describe, did_you_mean

__all__ = ["Broken", "Origin", "Registry", "UnknownComponentError", "load_plugins"]


class UnknownComponentError(LabError, LookupError):
    """No component of that role and name is served: unknown, ambiguous, or its plugin is broken."""


@dataclass(frozen=True)
class Origin:
    """Where a component comes from."""

    source: str
    distribution: str
    version: str
    module: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """The source, and the file and line of the class."""
        return f"{self.source} ({self.file}:{self.line})"


class Registry:
    """The components, studies, laws and observers of all sound plugins."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self.missing: list[Broken] = []  # not loaded for want of an optional dependency
        self.studies: dict[str, list[Path]] = {}
        self.properties: list[Any] = []
        self._found: dict[tuple[str, str], list[tuple[type[Component], Source]]] = {}
        self._observers = discovery.manager()

    @property
    def hook(self) -> Any:
        """The observer hooks of all plugins (``hook.rlhf_lab_run_step(...)``)."""
        return self._observers.hook

    def components(self, role: str | None = None) -> list[type[Component]]:
        """Return every unambiguous component, sorted by role and name; ``ambiguous`` has the others."""
        return [
            found[0][0]
            for (its_role, _), found in sorted(self._found.items())
            if len(found) == 1 and role in (None, its_role)
        ]

    def ambiguous(self, role: str | None = None) -> list[tuple[str, str, list[Origin]]]:
        """Return role, name and origins of what several sources provide, sorted; it is served to nobody."""
        return [
            (its_role, name, _origins(found))
            for (its_role, name), found in sorted(self._found.items())
            if len(found) > 1 and role in (None, its_role)
        ]

    def roles(self) -> list[str]:
        """Return the roles that have a component."""
        return sorted({role for role, _ in self._found})

    def origin(self, component: type[Component]) -> Origin:
        """Return where a registered component comes from."""
        for cls, source in self._found.get((component.role, component.name), []):
            if cls is component:
                return _origin(source, cls)
        raise UnknownComponentError(f"{component.__qualname__} is not registered.")

    def get(self, role: str, name: str) -> type[Component]:
        """Return the component class; raises ``UnknownComponentError`` where it is unknown or ambiguous."""
        found = self._found.get((role, name), [])
        if len(found) == 1:
            return found[0][0]
        if found:
            places = " and ".join(origin.place for origin in _origins(found))
            raise UnknownComponentError(
                f"{role} {name!r} is ambiguous: {places} both provide it. Rename one, or restrict {ALLOW_LIST}."
            )
        names = [n for r, n in self._found if r == role]
        if not names:
            possible = f"No {role} is registered. Roles: {', '.join(self.roles()) or 'none'}."
        else:
            possible = did_you_mean(name, names)
        raise UnknownComponentError(f"no {role} is called {name!r}. {possible}{self._broken_hint(name)}")

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
            raise UnknownComponentError(f"no component is called {name!r}. {hint}{self._broken_hint(name)}")
        return self.get(roles[0], name)

    def create(self, role: str, spec: Mapping[str, Any] | str | Component) -> Component:
        """Return the component of a name or ``{"name": ..., **parameters}``; raises ``LabError`` naming all errors."""
        place: TypeAdapter[Component] = TypeAdapter(Annotated[Component, Slot(role)])
        try:
            return place.validate_python(spec, context={"registry": self})
        except ValidationError as error:
            raise LabError(describe(error, prefix=(role,))) from None

    def blame(self, error: BaseException) -> str | None:
        """Return what was raised, and where in a plugin's own file; None where no plugin but ours is to blame."""
        origins = [origin for found in self._found.values() for origin in _origins(found)]
        theirs = {origin.file for origin in origins if origin.distribution != "rlhf-lab"}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in theirs]
        if not frames:
            return None
        return f"{type(error).__name__}: {error} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"

    def _broken_hint(self, name: str) -> str:
        missing = self.missing if "@" in name else []  # ``gae@peer`` comes from a plugin that wraps the peer
        return "".join(f"\nNot loaded: {b.source}: {b.reason}" for b in [*self.broken, *missing])

    def _add(self, source: Source, module: ModuleType) -> None:
        """Take over everything a plugin offers, or nothing of it."""
        if self._observers.is_registered(module):
            return  # known already, by another name
        classes = discovery.contents(module, "rlhf_lab_components")
        for cls in classes:
            if not (isinstance(cls, type) and issubclass(cls, Component)):
                raise TypeError(f"rlhf_lab_components returned {cls!r}, which is no Component class")
            for attribute in ("role", "name"):
                if not isinstance(getattr(cls, attribute, None), str):
                    raise TypeError(f"{cls.__qualname__} has no {attribute}; add `{attribute} = ...`")
            if inspect.isabstract(cls):
                missing = ", ".join(sorted(cls.__abstractmethods__))
                raise TypeError(f"{cls.__qualname__} is abstract: it does not define {missing}")
        studies = [Path(path) for path in discovery.contents(module, "rlhf_lab_studies")]
        for path in studies:
            if not path.is_file():
                raise FileNotFoundError(f"rlhf_lab_studies names {path}, which is not a file")
        laws = discovery.contents(module, "rlhf_lab_properties")
        self._observers.register(module)
        self.properties += laws
        for path in studies:
            self.studies.setdefault(path.stem, []).append(path)
        for cls in classes:
            found = self._found.setdefault((cls.role, cls.name), [])
            if all(cls is not other for other, _ in found):
                found.append((cls, source))


def load_plugins(extra: Iterable[str | ModuleType] = ()) -> Registry:
    """Return a registry of the installed plugins and of ``extra`` ones: files ``my.py``, module names, or modules."""
    registry = Registry()
    plugins = [extra] if isinstance(extra, str) else dict.fromkeys(extra)
    for source in [*discovery.installed(registry.broken), *map(discovery.local, plugins)]:
        try:
            module = source.load()
            discovery.check(module)
            registry._add(source, module)
        except MissingExtraError as error:
            registry.missing.append(Broken(source.label, str(error)))
        except (Exception, SystemExit) as error:
            registry.broken.append(Broken(source.label, discovery.reason(error)))
    return registry


def _origins(found: Iterable[tuple[type[Component], Source]]) -> list[Origin]:
    return [_origin(source, cls) for cls, source in found]


def _origin(source: Source, cls: type[Component]) -> Origin:
    try:
        file = inspect.getsourcefile(cls) or "unknown"
        line = inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        file, line = "unknown", 0
    return Origin(source.label, source.distribution, source.version, cls.__module__, file, line)
