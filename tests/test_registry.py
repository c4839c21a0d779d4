"""Plugins: found, loaded one by one, and told apart; a broken one says why and stops nobody."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import Field

from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator, Component, PolicyObjective
from rlhf_lab.errors import LabError, did_you_mean
from rlhf_lab.registry import Registry, UnknownComponentError, load_plugins
from rlhf_lab.types import Advantages, Loss, PolicyBatch, Trajectories

PLUGIN = '''
from pydantic import Field
from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator
from rlhf_lab.types import Advantages, Trajectories


class Mine(AdvantageEstimator):
    """The rewards themselves."""

    name = "mine"
    scale: float = Field(default=1.0, gt=0, description="a factor")

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(self.scale * batch.rewards)


@hookimpl
def rlhf_lab_components():
    return [Mine]
'''


class Scaled(AdvantageEstimator):
    """A component of this test module, which is a plugin itself."""

    name = "scaled"
    scale: float = Field(default=1.0, gt=0, description="a factor")

    def __call__(self, batch: Trajectories) -> Advantages:
        return Advantages(self.scale * batch.rewards)


class ScaledObjective(PolicyObjective):
    """A component of the same name and another role."""

    name = "scaled"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-batch.advantages * batch.log_probs)


class Single(PolicyObjective):
    """A component whose name nobody else has."""

    name = "single"

    def __call__(self, batch: PolicyBatch) -> Loss:
        return Loss(-batch.log_probs)


SEEN: list[tuple[str, int]] = []


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    return [Scaled, ScaledObjective, Single]


@hookimpl
def rlhf_lab_run_step(arm: str, iteration: int, metrics: Any) -> None:
    SEEN.append((arm, iteration))


HERE = sys.modules[__name__]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "")


@pytest.fixture
def plugin_file(tmp_path: Path) -> Callable[..., str]:
    def write(text: str = PLUGIN, name: str = "my_plugin.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a third party's distribution, as pip would lay it out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, *, module: str = PLUGIN, requires: str = "", entries: str = "mine = {0}") -> None:
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{requires}")
        (info / "entry_points.txt").write_text(f"[rlhf_lab]\n{entries.format(name)}\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setenv("RLHF_LAB_PLUGINS", f"{os.environ['RLHF_LAB_PLUGINS']},{name}")

    yield install
    for module in [
        m for m in sys.modules.values() if getattr(m, "__file__", None) and str(tmp_path) in str(m.__file__)
    ]:
        del sys.modules[module.__name__]


def only_reason(registry: Registry) -> str:
    assert len(registry.broken) == 1
    return registry.broken[0].reason


def test_first_party_plugins_all_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_LAB_PLUGINS")
    registry = load_plugins()
    assert registry.broken == []
    assert {"advantage", "objective", "policy", "trainer", "environment"} <= set(registry.roles())
    assert all(registry.origin(c).source.startswith("rlhf-lab:") for c in registry.components())


def test_no_first_party_component_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_LAB_PLUGINS")
    registry = load_plugins()
    pairs = [(c.role, c.name) for c in registry.components()]
    assert registry.ambiguous() == [] and all(registry.get(*pair) for pair in pairs)


def test_a_file_is_a_plugin(plugin_file: Callable[..., str]) -> None:
    registry = load_plugins([plugin_file()])
    found = registry.get("advantage", "mine")
    origin = registry.origin(found)
    line = PLUGIN.split("\n").index("class Mine(AdvantageEstimator):") + 1
    assert registry.broken == [] and found().scale == 1.0
    assert (origin.distribution, origin.file, origin.line) == ("local", plugin_file(), line)


def test_a_module_object_is_a_plugin() -> None:
    assert load_plugins([HERE]).get("advantage", "scaled") is Scaled


def test_a_module_name_is_a_plugin() -> None:
    assert load_plugins(["rlhf_lab_objectives"]).get("objective", "ppo_clip").name == "ppo_clip"


def test_a_single_plugin_need_not_be_in_a_list(plugin_file: Callable[..., str]) -> None:
    assert load_plugins(plugin_file()).get("advantage", "mine").name == "mine"


def test_the_same_plugin_twice_is_one_plugin(plugin_file: Callable[..., str]) -> None:
    registry = load_plugins([HERE, HERE, HERE.__name__, plugin_file(), plugin_file()])
    assert registry.broken == []
    assert [c.name for c in registry.components("advantage")] == ["mine", "scaled"]


def test_components_come_sorted_by_role_and_name() -> None:
    found = [(c.role, c.name) for c in load_plugins([HERE]).components()]
    assert found == [("advantage", "scaled"), ("objective", "scaled"), ("objective", "single")]


def test_an_installed_distribution_is_found_through_its_entry_point(distribution: Callable[..., None]) -> None:
    distribution("third_party", requires="Requires-Dist: rlhf-lab>=0.1\n")
    registry = load_plugins()
    origin = registry.origin(registry.get("advantage", "mine"))
    assert registry.broken == []
    assert (origin.source, origin.distribution, origin.version) == ("third_party:mine", "third_party", "1.2")


@pytest.mark.parametrize("requires", ["rlhf-lab>=99", "rlhf_lab<0.0.1", 'RLHF-Lab==99; python_version>"3"'])
def test_a_plugin_for_another_host_version_is_not_loaded(distribution: Callable[..., None], requires: str) -> None:
    distribution("third_party", requires=f"Requires-Dist: {requires}\n")
    registry = load_plugins()
    assert registry.components() == []
    assert registry.broken[0].source == "third_party:mine"
    assert only_reason(registry).startswith("needs rlhf-lab") and only_reason(registry).endswith("is installed")


@pytest.mark.parametrize("requires", ['rlhf-lab>=99; python_version<"3"', 'rlhf-lab>=99; extra=="new"', "numpy>=1"])
def test_a_requirement_that_does_not_apply_stops_nothing(distribution: Callable[..., None], requires: str) -> None:
    distribution("third_party", requires=f"Requires-Dist: {requires}\n")
    assert load_plugins().broken == []


@pytest.mark.parametrize("allowed", ["third_party", "mine", " mine , "])
def test_the_allow_list_takes_plugins_and_distributions(
    distribution: Callable[..., None], monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    distribution("third_party")
    monkeypatch.setenv("RLHF_LAB_PLUGINS", allowed)
    registry = load_plugins()
    assert [c.name for c in registry.components()] == ["mine"] and registry.broken == []


def test_what_the_allow_list_names_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "advantage")
    registry = load_plugins()
    assert registry.components() == [] and registry.broken[0].source == "RLHF_LAB_PLUGINS"
    assert only_reason(registry).startswith(
        "no plugin or distribution is called 'advantage'. Did you mean 'advantages'?"
    )


def test_two_entry_points_of_one_module_are_one_plugin(distribution: Callable[..., None]) -> None:
    distribution("third_party", entries="mine = {0}\nagain = {0}")
    registry = load_plugins()
    assert registry.broken == [] and registry.get("advantage", "mine").name == "mine"


BROKEN = {
    "fails to import": ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    "has a syntax error": ("def f(:", "SyntaxError: "),
    "stops the interpreter": ("raise SystemExit(3)", "SystemExit: 3"),
    "misspells a hook": (
        PLUGIN.replace("rlhf_lab_components", "rlhf_lab_component"),
        "'rlhf_lab_component' is no hook. Did you mean 'rlhf_lab_components'? Possible: ",
    ),
    "lacks the decorator": (PLUGIN.replace("@hookimpl\n", ""), "'rlhf_lab_components' lacks the @hookimpl decorator"),
    "has no hook": ("class GAE: ...", "def rlhf_lab_components():\n        return [GAE]"),
    "wants another contract": (
        PLUGIN + "RLHF_LAB_CONTRACT = 2",
        "is written for plugin contract 2; this rlhf-lab has contract 1",
    ),
    "returns no component": (PLUGIN.replace("[Mine]", "['mine']"), "returned 'mine', which is no Component class"),
    "returns an instance": (PLUGIN.replace("[Mine]", "[Mine()]"), "which is no Component class"),
    "returns a class alone": (PLUGIN.replace("[Mine]", "Mine"), "rlhf_lab_components returned <class"),
    "returns nothing": (PLUGIN.replace("return [Mine]", "Mine"), "rlhf_lab_components returned None; return a list"),
    "returns an abstract class": (PLUGIN.replace("__call__", "call"), "Mine is abstract: it does not define __call__"),
    "gives no name": (PLUGIN.replace('name = "mine"', ""), "Mine has no name; add `name = ...`"),
    "fails in its hook": (PLUGIN.replace("return [Mine]", "return [Yours]"), "NameError: name 'Yours' is not defined"),
    "annotates its name": (PLUGIN.replace("name =", "name: str ="), "'name' is metadata and must not be annotated"),
    "has a hook of other arguments": (
        PLUGIN + "\n@hookimpl\ndef rlhf_lab_run_step(arms): ...",
        "Argument(s) {'arms'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "names a study that is not there": (
        PLUGIN + "\n@hookimpl\ndef rlhf_lab_studies(): return ['nowhere.yaml']",
        "rlhf_lab_studies names nowhere.yaml, which is not a file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_says_why_and_the_others_are_served(plugin_file: Callable[..., str], case: str) -> None:
    text, reason = BROKEN[case]
    registry = load_plugins([plugin_file(text), HERE])
    assert registry.broken[0].source == plugin_file(text) and reason in only_reason(registry)
    assert {c.name for c in registry.components()} == {"scaled", "single"}  # all or nothing of a plugin


def test_observers_of_a_broken_plugin_are_not_called(plugin_file: Callable[..., str]) -> None:
    text = """
from rlhf_lab import hookimpl

@hookimpl
def rlhf_lab_run_end(arm, metrics): raise AssertionError

@hookimpl
def rlhf_lab_run_start(arms): raise AssertionError
"""
    registry = load_plugins([plugin_file(text)])
    registry.hook.rlhf_lab_run_end(arm="a", metrics={})
    assert len(registry.broken) == 1


def test_the_reason_names_the_line_of_the_plugin(plugin_file: Callable[..., str]) -> None:
    path = plugin_file("\n\n" + BROKEN["fails to import"][0])
    assert only_reason(load_plugins([path])).endswith(f"({path}:3)")


@pytest.mark.parametrize(("plugin", "reason"), [("no/such.py", "there is no such file in /"), ("no_such", "No module")])
def test_a_plugin_that_is_not_there_is_told(plugin: str, reason: str) -> None:
    assert reason in only_reason(load_plugins([plugin]))


def test_what_did_not_load_is_shown_where_it_hurts(plugin_file: Callable[..., str]) -> None:
    path = plugin_file("import nothing_of_that_name")
    with pytest.raises(UnknownComponentError, match=rf"no advantage is called 'mine'.*\nNot loaded: {path}: ModuleNot"):
        load_plugins([path, HERE]).get("advantage", "mine")


def test_a_name_from_two_sources_is_served_to_nobody(plugin_file: Callable[..., str]) -> None:
    paths = [plugin_file(), plugin_file(name="other.py")]
    registry = load_plugins(paths)
    assert registry.components("advantage") == []
    with pytest.raises(UnknownComponentError, match=r"advantage 'mine' is ambiguous") as caught:
        registry.get("advantage", "mine")
    assert all(path in str(caught.value) for path in paths)


def test_a_name_from_two_sources_is_listed_with_both(plugin_file: Callable[..., str]) -> None:
    paths = [plugin_file(), plugin_file(name="other.py")]
    registry = load_plugins([*paths, HERE])
    ((role, name, origins),) = registry.ambiguous()
    assert (role, name, [origin.source for origin in origins]) == ("advantage", "mine", paths)
    assert registry.ambiguous("objective") == []


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UnknownComponentError, match=r"no objective is called 'singel'. Did you mean 'single'\? Possible: "
    ):
        load_plugins([HERE]).get("objective", "singel")


def test_a_role_without_components_is_told() -> None:
    with pytest.raises(UnknownComponentError, match=r"No kl is registered. Roles: advantage, objective"):
        load_plugins([HERE]).get("kl", "k1")


def test_find_takes_a_name_or_role_and_name() -> None:
    registry = load_plugins([HERE])
    assert registry.find("single") is Single and registry.find("objective/scaled") is ScaledObjective


def test_find_refuses_a_name_of_several_roles() -> None:
    with pytest.raises(UnknownComponentError, match="several roles; say advantage/scaled or objective/scaled"):
        load_plugins([HERE]).find("scaled")


def test_find_answers_an_unknown_name_with_the_nearest() -> None:
    with pytest.raises(UnknownComponentError, match=r"no component is called 'singles'. Did you mean 'single'"):
        load_plugins([HERE]).find("singles")


def test_create_takes_a_name_a_mapping_or_a_component() -> None:
    registry = load_plugins([HERE])
    made = Scaled(scale=2.0)
    assert registry.create("advantage", "scaled") == Scaled()
    assert registry.create("advantage", {"name": "scaled", "scale": 2}) == made
    assert registry.create("advantage", made) is made


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "scaled", "scale": -1}, r"^advantage.scale: Input should be greater than 0, found -1$"),
        (
            {"name": "scaled", "scal": 1},
            r"^advantage.scal: is no parameter here. Did you mean 'scale'\? Possible: scale.$",
        ),
        ("scald", r"^advantage: no advantage is called 'scald'. Did you mean 'scaled'\?"),
        ({"scale": 1}, "^advantage: expected a name or a mapping with 'name'"),
        (None, "^advantage: expected a name or a mapping with 'name' for role 'advantage', found None$"),
        (Single(), "^advantage: expected a component of role 'advantage', found 'single' of role 'objective'$"),
    ],
)
def test_create_says_what_is_wrong(spec: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        load_plugins([HERE]).create("advantage", spec)


def test_origin_of_a_stranger_is_unknown() -> None:
    with pytest.raises(UnknownComponentError, match="Scaled is not registered"):
        load_plugins().origin(Scaled)


def test_observers_are_called() -> None:
    SEEN.clear()
    load_plugins([HERE]).hook.rlhf_lab_run_step(arm="a", iteration=3, metrics={})
    assert SEEN == [("a", 3)]


def test_registries_do_not_share_observers() -> None:
    SEEN.clear()
    load_plugins([HERE])
    load_plugins().hook.rlhf_lab_run_step(arm="a", iteration=3, metrics={})
    assert SEEN == []


def test_studies_are_named_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "a-study.yaml").write_text("title: t\n")
    module = ModuleType("with_studies")
    module.rlhf_lab_studies = hookimpl(lambda: [tmp_path / "a-study.yaml"])  # type: ignore[attr-defined]
    assert load_plugins([module]).studies == {"a-study": [tmp_path / "a-study.yaml"]}


def test_laws_of_plugins_are_kept() -> None:
    module = ModuleType("with_laws")
    module.rlhf_lab_properties = hookimpl(lambda: ["a law"])  # type: ignore[attr-defined]
    assert load_plugins([module]).properties == ["a law"]


def test_of_very_many_possible_names_the_nearest_are_told() -> None:
    names = [f"loss_{i}" for i in range(80)] + ["dpo_norm"]
    assert did_you_mean("dpo_nrom", names).startswith(
        "Did you mean 'dpo_norm'? Possible are 81 names, the nearest: dpo_norm, loss_"
    )
    assert did_you_mean("dpo_nrom", names).count("loss_") == 11
