"""What a mutant is, and how it is presented to verification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_lab.components import Component
from rlhf_lab.conformance.properties import oracle
from rlhf_lab.registry import load_plugins

__all__ = ["Mutant", "variants"]

REGISTRY = load_plugins()


@dataclass(frozen=True)
class Mutant:
    """A wrong component, and the right one that it imitates: a registered name, or a class where none is registered.

    ``bug`` is the entry of the list of real bugs that it rebuilds, or a few words of its own. Parameters have the names
    of the imitated component's, or are renamed by ``conventions``.
    """

    bug: str
    component: type[Component]
    imitates: str | type[Component]

    @property
    def original(self) -> type[Component]:
        return REGISTRY.get(self.component.role, self.imitates) if isinstance(self.imitates, str) else self.imitates

    def implementing(self) -> type[Component]:
        """Return the mutant saying that it implements the definition of record, and claiming nothing."""
        return self._declaring(implements=self.original.implements, claims=frozenset())

    def claiming(self) -> type[Component]:
        """Return the mutant with the claims of the component that it imitates, and no definition."""
        return self._declaring(implements=None, claims=self.original.claims)

    def declaring_both(self) -> type[Component]:
        """Return the mutant with the claims and the definition of the component that it imitates."""
        return self._declaring(implements=self.original.implements, claims=self.original.claims)

    def oracle_id(self) -> str:
        """Return the id of the property of being an implementation of the imitated component's definition."""
        return oracle(self.component.role, self.original.implements or "").id

    def _declaring(self, **declared: Any) -> type[Component]:
        return type(self.component.__name__, (self.component,), {"__module__": self.component.__module__, **declared})


def variants(
    base: type[Component], part: str, table: Mapping[str, Any], imitates: str | type[Component] | None = None
) -> list[Mutant]:
    """Return a mutant for each bug of a table: the base with another method ``part``; it imitates the base itself or
    what is named.
    """
    made = []
    for n, (bug, function) in enumerate(table.items()):
        name = f"{imitates if isinstance(imitates, str) else base.name}_{part}_{n}"
        component = type(name, (base,), {"__module__": base.__module__, "name": name, part: function})
        made.append(Mutant(bug, component, imitates or base))
    return made
