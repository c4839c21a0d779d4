"""A pytest plugin that verifies components without a test being written; opt in with ``-p rlhf_lab.pytest_plugin``.

    [tool.pytest.ini_options]
    addopts = "-p rlhf_lab.pytest_plugin"
    rlhf_lab_verify = ["my_gae"]
    rlhf_lab_plugin = ["my_file.py"]
    rlhf_lab_expected_failures = ["my_gae future-only: looks ahead, see issue 7"]

Names are those of ``rlhf-lab verify``. Each property of each component is one test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_lab.conformance.checks import Check, checks
from rlhf_lab.conformance.views import VIEWS
from rlhf_lab.errors import LabError
from rlhf_lab.registry import load_plugins

__all__ = ["pytest_addoption", "pytest_collection_modifyitems"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each of which may stand in the ini file."""
    group = parser.getgroup("rlhf_lab", "verification of components")
    for name, told in (
        ("verify", "a component (name or role/name), or all of a role"),
        ("plugin", "a plugin to load: FILE.py or MODULE"),
    ):
        group.addoption(f"--rlhf-lab-{name}", action="append", default=[], metavar="NAME", help=told)
        parser.addini(f"rlhf_lab_{name}", told, type="linelist", default=[])
    parser.addini("rlhf_lab_expected_failures", "lines `COMPONENT PROPERTY: REASON`", type="linelist", default=[])
    parser.addini("rlhf_lab_examples", "how many cases", default="100")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test for each property of each component that is to be verified."""
    names = [*config.getini("rlhf_lab_verify"), *config.getoption("--rlhf-lab-verify")]
    if not names:
        return
    plugins = [*config.getini("rlhf_lab_plugin"), *config.getoption("--rlhf-lab-plugin")]
    try:
        items += _items(session, names, plugins, config.getini("rlhf_lab_expected_failures"), config)
    except LabError as error:
        raise pytest.UsageError(f"rlhf_lab: {error}") from None


def _items(
    session: pytest.Session, names: list[str], plugins: list[str], failures: list[str], config: pytest.Config
) -> Iterator[pytest.Item]:
    registry = load_plugins(plugins)
    for broken in [*registry.broken, *registry.missing]:
        if broken.source in plugins:
            raise LabError(f"plugin {broken.source} did not load: {broken.reason}")
    components = [
        component
        for name in names
        for component in (registry.components(name) if name in VIEWS else [registry.find(name)])
    ]
    found = checks(
        dict.fromkeys(components),
        expected_failures=_parsed(failures),
        examples=_examples(config.getini("rlhf_lab_examples")),
        registry=registry,
    )
    for check in found:
        yield _Item.from_parent(session, name=f"{check.verification.default.role}/{check.id}", check=check)


def _parsed(lines: list[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        what, colon, reason = line.partition(":")
        words = what.split()
        if len(words) != 2 or not colon or not reason.strip():
            raise LabError(f"rlhf_lab_expected_failures: expected `COMPONENT PROPERTY: REASON`, found {line!r}")
        found.setdefault(words[0], {})[words[1]] = reason.strip()
    return found


def _examples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise LabError(f"rlhf_lab_examples: expected a number from 1 on, found {text!r}")
    return int(text)


class _Item(pytest.Item):
    """One property of one component."""

    def __init__(self, *, check: Check, **options: Any) -> None:
        super().__init__(**options)
        self.check = check
        if check.reason:
            self.add_marker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=check.reason))

    def runtest(self) -> None:
        """Check the property."""
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the verdict; only an error that is none of a property's has a traceback."""
        return str(excinfo.value) if isinstance(excinfo.value, AssertionError) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Return what the report calls the test."""
        return self.path, None, self.name
