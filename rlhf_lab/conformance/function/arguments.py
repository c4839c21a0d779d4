"""Which argument of a plain function gets which batch field or parameter, and which function is meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lab import discovery
from rlhf_lab.conformance.definitions import Definition, definition, definitions
from rlhf_lab.conformance.function.batches import FIELDS, PSEUDO
from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.yaml_file import parse_value

__all__ = ["Arguments", "find_record", "load_function", "match", "parse_mapping"]


def load_function(text: str) -> Callable[..., Any]:
    """Return the function of ``FILE.py:fn``; raises ``LabError`` where there is none."""
    file, colon, name = text.rpartition(":")
    if not colon or not file:
        raise LabError(f"--function {text}: expected FILE.py:fn")
    try:
        module = discovery.load_file(Path(file))
    except (Exception, SystemExit) as error:
        raise LabError(f"--function {text}: {file} did not load: {discovery.reason(error)}") from None
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            functions = [n for n, f in inspect.getmembers(found, inspect.isfunction) if f.__module__ == module.__name__]
            raise LabError(f"--function {text}: {file} has no {part!r}. {did_you_mean(part, functions)}")
        found = getattr(found, part)
    if not inspect.isfunction(found):
        raise LabError(f"--function {text}: {name} is {type(found).__name__}, expected a function")
    return found


def parse_mapping(texts: Sequence[str]) -> dict[str, str]:
    """Return ``{field: argument}`` of ``["field=argument,field=argument", ...]``."""
    found: dict[str, str] = {}
    for item in (part.strip() for text in texts for part in text.split(",")):
        field, sign, argument = (part.strip() for part in item.partition("="))
        if not (field and sign and argument):
            raise LabError(f"--map {item}: expected FIELD=ARGUMENT")
        if field in found:
            raise LabError(f"--map {item}: {field} is mapped already, to {found[field]}")
        found[field] = argument
    return found


def find_record(name: str) -> Definition:
    """Return the definition of record of that name, whatever its role."""
    role, _, bare = name.rpartition("/")
    known = {each: definitions(each) for each in FIELDS}
    if role:
        if role not in known:
            raise LabError(f"--as {name}: functions are judged for the roles {', '.join(known)}")
        return definition(role, bare)
    found = [known[each][bare] for each in known if bare in known[each]]
    if not found:
        hint = did_you_mean(name, {each for names in known.values() for each in names})
        raise LabError(f"--as {name}: there is no such definition of record. {hint}")
    if len(found) > 1:
        raise LabError(f"--as {name}: several roles have it; say {' or '.join(f'{r.role}/{name}' for r in found)}")
    return found[0]


@dataclass(frozen=True)
class Arguments:
    """What each argument of a function gets."""

    sources: dict[str, str]  # argument -> field, pseudo-field or parameter
    constants: dict[str, Any]  # parameter -> value
    positional: tuple[str, ...]  # arguments that must not be named
    defaults: dict[str, Any]  # argument -> the function's own default

    def takes(self, record: Definition) -> frozenset[str]:
        """Return the fields and pseudo-fields that the function takes."""
        return frozenset(self.sources.values()) - record.parameters.keys()

    def parameters(self, record: Definition) -> dict[str, Any]:
        """Return the definition's parameters that the function takes, with its own default or the definition's."""
        taken = {source: argument for argument, source in self.sources.items() if source in record.parameters}
        return {name: self.defaults.get(argument, record.parameters[name]) for name, argument in taken.items()}

    def fixed(self, record: Definition) -> dict[str, Any]:
        """Return the definition's parameters that the function does not take, with the value to judge it by."""
        return {
            name: self.constants.get(name, default)
            for name, default in record.parameters.items()
            if name not in self.sources.values()
        }


def match(function: Callable[..., Any], record: Definition, mapping: Mapping[str, str]) -> Arguments:
    """Return what each argument gets: what is mapped to it, else what has its name."""
    known = inspect.signature(function).parameters
    plain = {name: each for name, each in known.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    possible = {*FIELDS[record.role], *PSEUDO[record.role], *record.parameters}
    sources: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for source, argument in mapping.items():
        if source not in possible:
            raise LabError(
                f"--map {source}={argument}: {record.role} has no {source!r}. {did_you_mean(source, possible)}"
            )
        if argument in sources:
            raise LabError(f"--map {source}={argument}: {sources[argument]} is mapped to {argument} already")
        if argument in plain:
            sources[argument] = source
        elif _is_constant(record, source, argument):
            constants[source] = parse_value(argument)
        else:
            raise LabError(
                f"--map {source}={argument}: {function.__name__} has no argument {argument!r}. "
                f"{did_you_mean(argument, plain)}"
            )
    for name in plain:
        if name not in sources and name in possible and name not in mapping:
            sources[name] = name
    left = [name for name, each in plain.items() if name not in sources and each.default is each.empty]
    if left:
        free = sorted(possible - set(sources.values()) - set(constants))
        raise LabError(
            f"{function.__name__}: nothing is mapped to its argument {left[0]!r}. "
            f"Say --map FIELD={left[0]} with FIELD one of: {', '.join(free)}."
        )
    return Arguments(
        sources,
        constants,
        tuple(name for name, each in plain.items() if each.kind is each.POSITIONAL_ONLY),
        {name: each.default for name, each in plain.items() if each.default is not each.empty},
    )


def _is_constant(record: Definition, source: str, text: str) -> bool:
    """Return whether a parameter is mapped to a value, not to an argument: a number, a flag, or a word for a word."""
    if source not in record.parameters:
        return False
    return isinstance(record.parameters[source], str) or not isinstance(parse_value(text), str)
