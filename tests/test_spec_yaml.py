"""YAML that PyYAML itself answers with a traceback: refused in words, in a file and in a value of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_lab.errors import LabError
from rlhf_lab.yaml_file import load_yaml, parse_value

# text, where its fault stands, and what is said of it
FAULTS = [
    ("spec: &a {x: *a}", "1:14", "an alias of what it stands in; it would have no end"),
    ("spec: &a\n  - [1, *a]", "2:9", "an alias of what it stands in; it would have no end"),
    ("spec: 1\nx: 2001-99-99", "2:4", "this is no timestamp: month must be in 1..12"),
    ("x: !!bool foo", "1:4", "this is no bool: 'foo'"),
    ("x: 0x_", "1:4", "this is no int: invalid literal for int() with base 16: ''"),
    ("[" * 5000, "1:101", "more than 100 levels inside one another"),  # the first bracket that is too deep
    ("[" * 5000 + "]" * 5000, "1:101", "more than 100 levels inside one another"),
]


@pytest.mark.parametrize(("text", "place", "message"), FAULTS)
def test_a_file_is_refused_with_the_place_of_its_fault(tmp_path: Path, text: str, place: str, message: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabError) as refused:
        load_yaml(path)
    assert str(refused.value) == f"{path}:{place}: no YAML: {message}"


@pytest.mark.parametrize(("text", "place", "message"), FAULTS)
def test_a_value_is_refused_in_words(text: str, place: str, message: str) -> None:
    with pytest.raises(LabError) as refused:
        parse_value(text)
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    assert str(refused.value) == f"{shown!r} is no YAML value: {message}"


def test_an_alias_after_its_anchor_is_read() -> None:
    assert parse_value("{a: &x [1], b: [*x, *x]}") == {"a": [1], "b": [[1], [1]]}


def test_a_hundred_levels_are_read() -> None:
    # the innermost of a hundred brackets is level 100; what stands in it would be level 101
    assert parse_value("[" * 100 + "]" * 100)
