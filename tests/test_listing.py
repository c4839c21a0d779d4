"""What ``list``, ``show`` and ``studies`` say of a plugin."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from rlhf_lab import hookimpl
from rlhf_lab.components import Component, PreferenceObjective, RewardObjective, Slot
from rlhf_lab.listing import described, listed, named_studies, print_component, print_list, print_studies
from rlhf_lab.registry import Registry, load_plugins


class Inner(RewardObjective):
    """A likelihood."""

    name = "inner"

    def __call__(self, batch: Any) -> Any: ...


class Shown(PreferenceObjective):
    """A loss on ``[seeds, k]`` with [/brackets] that
    is two lines long.

    loss = -log sigma(x)  [k]
    """

    name = "shown"
    reference = "Somebody 2025, eq. 1"
    requires = frozenset({"ref_log_probs"})
    claims = frozenset({"a-claim"})
    implements = "dpo"
    beta: float = Field(default=0.1, gt=0, le=2, description="how much [per seed]")
    mode: Literal["a", "b"] = Field(default="a", description="which")
    target: float | None = Field(default=None, description="maybe")
    inner: Annotated[RewardObjective, Slot("reward_model")] = Inner()

    def __call__(self, batch: Any) -> Any: ...


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    return [Shown, Inner]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry]:
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *more: load_plugins([sys.modules[__name__], *more])


def test_list_tells_role_name_summary_and_source(registry: Callable[..., Registry]) -> None:
    found = listed(registry(), "preference")
    assert found["components"] == [
        {
            "role": "preference",
            "name": "shown",
            "summary": "A loss on ``[seeds, k]`` with [/brackets] that is two lines long.",
            "reference": "Somebody 2025, eq. 1",
            "from": __name__,
        }
    ]


def test_list_tells_what_did_not_load(registry: Callable[..., Registry]) -> None:
    found = listed(registry("no_such_module"), None, broken_only=True)
    assert found["components"] == [] and found["broken"][0]["source"] == "no_such_module"


def test_show_tells_parameters_and_origin(registry: Callable[..., Registry]) -> None:
    found = described(registry(), Shown)
    assert found["parameters"] == [
        {"name": "beta", "type": "float", "default": 0.1, "bounds": "> 0 ≤ 2", "description": "how much [per seed]"},
        {"name": "mode", "type": "Literal['a', 'b']", "default": "a", "bounds": "a or b", "description": "which"},
        {"name": "target", "type": "float | None", "default": None, "bounds": "", "description": "maybe"},
        {"name": "inner", "type": "RewardObjective", "default": {"name": "inner"}, "bounds": "", "description": ""},
    ]
    assert (found["requires"], found["claims"], found["implements"]) == (["ref_log_probs"], ["a-claim"], "dpo")
    assert found["source"].startswith(f"{__file__}:") and found["doc"].endswith("loss = -log sigma(x)  [k]")


def test_printed_text_keeps_its_brackets(registry: Callable[..., Registry], capsys: pytest.CaptureFixture[str]) -> None:
    print_list(registry(), None)
    print_component(registry(), Shown)
    printed = capsys.readouterr().out
    assert "``[seeds, k]`` with [/brackets]" in printed and "[seeds, k] with [/brackets]" in printed
    assert "how much [per seed]" in printed and "-log sigma(x)  [k]" in printed


def test_list_prints_what_did_not_load(registry: Callable[..., Registry], capsys: pytest.CaptureFixture[str]) -> None:
    print_list(registry("no_such_module"), None, broken_only=True)
    print_list(registry(), None, broken_only=True)
    printed = capsys.readouterr().out
    assert "not loaded: no_such_module: ModuleNotFoundError" in printed and "every plugin loaded" in printed


def twin() -> ModuleType:
    """Return a plugin with another component of role and name ``preference/shown``."""

    class Other(Shown):
        """Another one."""

    module = ModuleType("twin")
    module.rlhf_lab_components = hookimpl(lambda: [Other])  # type: ignore[attr-defined]
    return module


def test_list_tells_what_two_plugins_claim(registry: Callable[..., Registry]) -> None:
    found = listed(registry(twin()), "preference")
    (entry,) = found["ambiguous"]
    assert found["components"] == [] and (entry["role"], entry["name"]) == ("preference", "shown")
    assert entry["sources"][0].startswith(f"{__name__} ({__file__}:")
    assert entry["sources"][1].startswith(f"twin ({__file__}:")


def test_an_ambiguous_name_is_told_of_under_broken(
    registry: Callable[..., Registry], capsys: pytest.CaptureFixture[str]
) -> None:
    print_list(registry(twin()), None, broken_only=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("ambiguous: preference 'shown': ") and printed.endswith("provide it; rename one")
    assert "every plugin loaded" not in printed


def studies(*paths: Path) -> ModuleType:
    module = ModuleType("with_studies")
    module.rlhf_lab_studies = hookimpl(lambda: list(paths))  # type: ignore[attr-defined]
    return module


def test_studies_tell_name_and_title(
    registry: Callable[..., Registry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text("title: What [now]?\n")
    found = registry(studies(tmp_path / "one.yaml"))
    assert named_studies(found) == [{"name": "one", "title": "What [now]?", "file": str(tmp_path / "one.yaml")}]
    print_studies(found)
    assert "What [now]?" in capsys.readouterr().out


def test_a_study_that_cannot_be_read_does_not_hide_the_others(
    registry: Callable[..., Registry], tmp_path: Path
) -> None:
    (tmp_path / "one.yaml").write_text("title: One\n")
    (tmp_path / "two.yaml").write_text("title: [\n")
    found = named_studies(registry(studies(tmp_path / "one.yaml", tmp_path / "two.yaml")))
    assert found[0]["title"] == "One" and found[1]["title"].startswith(f"{tmp_path}/two.yaml:2:1: no YAML: ")


def test_show_loses_no_word_of_a_docstring(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A docstring is read as Markdown, in which a star or a bracket could vanish."""
    monkeypatch.setenv("COLUMNS", "70")
    installed = load_plugins()
    for component in installed.components():
        print_component(installed, component)
        shown = capsys.readouterr().out
        due = inspect.cleandoc(component.__doc__ or "").replace("\n- ", "\n")
        assert re.sub(r"[\s`]", "", due) in re.sub(r"[\s•]", "", shown), component.name
