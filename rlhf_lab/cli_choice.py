"""Which components ``rlhf-lab verify`` is asked for: one, all of a role, or all; and what of them is not served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from rlhf_lab.cli_options import not_loaded
from rlhf_lab.errors import LabError, did_you_mean

if TYPE_CHECKING:
    from rlhf_lab.components import Component
    from rlhf_lab.registry import Registry

__all__ = ["chosen", "ids_of_each", "is_role", "not_served", "shortest"]


def is_role(name: str | None) -> bool:
    """Return whether the name may be that of a role, before anything is loaded."""
    from rlhf_lab.conformance.views import VIEWS

    return name is not None and name.removesuffix("/") in VIEWS


def chosen(name: str | None, registry: Registry) -> tuple[list[type[Component]], bool]:
    """Return the components that are meant, and whether a role or ``--all`` was asked for."""
    from rlhf_lab.conformance.views import VIEWS, view

    if name is None:
        return [component for role in VIEWS for component in _own(role, registry)], True
    role = name.removesuffix("/")
    roles = {*VIEWS, *registry.roles()}
    # A trainer may bear the name of a role, as reward_model does; only what can be verified makes it unclear.
    known = {component.name for component in registry.components() if component.role in VIEWS}
    known |= {claimed for its_role, claimed, _ in registry.ambiguous() if its_role in VIEWS}
    if role in roles and (role not in known or name.endswith("/")):
        view(role)
        if not registry.components(role) and not registry.ambiguous(role):
            raise LabError(f"no component of role {role!r} is registered.")
        return _own(role, registry), True
    if name in roles:
        raise LabError(f"{name!r} is a role and a component; say {name}/ for all of the role, or role/{name}.")
    try:
        found = registry.find(name)
    except LabError as error:
        possible = "" if "/" in name or name in known else f"\nNor is a role. Roles that do math: {', '.join(VIEWS)}."
        raise LabError(f"{error}{possible}") from None
    view(found.role)
    return [found], False


def _own(role: str, registry: Registry) -> list[type[Component]]:
    """Return the components of a role, but not what other libraries compute.

    ``name@peer`` is not ours to pass, and is verified where it is named.
    """
    return [component for component in registry.components(role) if "@" not in component.name]


def not_served(registry: Registry, plugins: list[str] | None, role: str | None) -> int:
    """Tell of the names that several plugins claim, and return how much that was asked for is not served."""
    from rlhf_lab.conformance.views import VIEWS

    roles = VIEWS if role is None else (role.removesuffix("/"),)
    ambiguous = [each for each in registry.ambiguous() if each[0] in roles]
    for its_role, name, origins in ambiguous:
        both = " and ".join(origin.place for origin in origins)
        typer.echo(f"rlhf-lab: {its_role} {name!r} is ambiguous and not verified: {both} provide it", err=True)
    return len(not_loaded(registry, plugins)) + len(ambiguous)


def ids_of_each(
    components: Sequence[type[Component]], registry: Registry, only: Sequence[str], several: bool
) -> dict[type[Component], list[str]]:
    """Return the ids to keep of each component; one that belongs to none of several is refused."""
    from rlhf_lab.conformance import claims_of_role, properties_for

    if not several or not only:
        return {component: list(only) for component in components}
    known: dict[type[Component], set[str]] = {}
    for component in components:
        try:
            checked = [*properties_for(component, registry), *claims_of_role(component.role, registry)]
        except LabError:
            known[component] = set(only)  # what is wrong with it is told when it is verified
            continue
        known[component] = {each.id for each in checked}
    possible = set[str]().union(*known.values())
    for unknown in sorted(set(only) - possible):
        raise LabError(f"no property is called {unknown!r}. {did_you_mean(unknown, possible)}")
    return {component: [each for each in only if each in ids] for component, ids in known.items()}


def shortest(registry: Registry, component: type[Component]) -> str:
    """Return the name by which the command line finds the component."""
    try:
        return component.name if registry.find(component.name) is component else f"{component.role}/{component.name}"
    except LabError:
        return f"{component.role}/{component.name}"
