"""Reading YAML for people: where each key stands, no key twice, 1e-3 is a number, and nothing bad is a traceback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from rlhf_lab.errors import LabError

__all__ = ["Positions", "load_yaml", "parse_value"]

DEEPEST: Final = 100  # far beyond any study, far below where Python's recursion ends

_KEYS: Final = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")

Positions = Mapping[tuple[str, ...], str]
"""Where each key of a file stands: path of keys -> ``file.yaml:line:column``."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error that knows its place for all that cannot be read.

    It reads 1e-3 as a number, as YAML 1.2 has it; by itself PyYAML finds a text there.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; refuse what is too deep for recursive code, and what contains itself."""
        place = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} levels inside one another", place)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node.end_mark is None:  # still being read: an alias of what is around it
            raise ComposerError(None, None, "an alias of what it stands in; it would have no end", place)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the node's value; where PyYAML reads a text as a date or number, it may turn out to be none."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(None, None, f"this is no {kind}: {error}", node.start_mark) from None


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), [*"-+0123456789"])


def load_yaml(path: Path) -> tuple[dict[str, Any], Positions]:
    """Return the mapping in a YAML file and where its keys stand; raises ``LabError`` for anything else."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        positions: dict[tuple[str, ...], str] = {}
        if node is not None:
            _locate(node, (), str(path), positions, set())
        data = None if node is None else loader.construct_document(node)
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"cannot read {path}: {error}") from None
    except yaml.YAMLError as error:
        raise LabError(_located(error, str(path))) from None
    if not isinstance(data, dict):
        found = "an empty file" if data is None else f"a {type(data).__name__}"
        raise LabError(f"{path}: expected a mapping of keys at the top, found {found}")
    return data, positions


def parse_value(text: str) -> Any:
    """Return the value that YAML sees in ``text``; raises ``LabError`` where it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        shown = text if len(text) <= 60 else f"{text[:60]}..."
        raise LabError(f"{shown!r} is no YAML value: {problem}") from None


def _locate(
    node: yaml.Node, path: tuple[str, ...], file: str, positions: dict[tuple[str, ...], str], seen: set[yaml.Node]
) -> None:
    positions.setdefault(path, _place(file, node.start_mark))
    if node in seen:
        return  # an alias: its keys stand where the anchor is
    seen.add(node)
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _locate(item, (*path, str(i)), file, positions, seen)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            place = _place(file, key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise LabError(f"{place}: a key must be a word, found a {key.id}")
            if key.tag not in _KEYS:
                raise LabError(f"{place}: YAML does not read the key {key.value} as a text; put it in quotes")
            if key.value in keys:
                raise LabError(f"{place}: the key {key.value!r} stands twice; keep one")
            keys.add(key.value)
            positions[(*path, key.value)] = place
            _locate(value, (*path, key.value), file, positions, seen)


def _place(file: str, mark: yaml.Mark) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


def _located(error: yaml.YAMLError, file: str) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"{file}: no YAML: {error}"
    begin = f" from line {error.context_mark.line + 1} on" if error.context_mark else ""
    context = f" ({error.context}{begin})" if error.context else ""
    hint = "; indent with spaces" if "\\t" in (error.problem or "") else ""
    return f"{_place(file, error.problem_mark)}: no YAML: {error.problem}{context}{hint}"
