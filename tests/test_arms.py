"""Arms, overrides and grid; and what the command line changes in a study."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml
from pydantic import Field

from rlhf_lab import hookimpl
from rlhf_lab.components import AdvantageEstimator, Component
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry, load_plugins
from rlhf_lab.study.arms import Arm, Stage, assign, expand, flatten, merge, parse_assignment
from rlhf_lab.study.edit import apply_settings, edit_study, spec_places, study_places, study_yaml
from rlhf_lab.study.schema import Study


class Mine(AdvantageEstimator):
    """Somebody's own estimator."""

    name = "mine"
    lam: float = Field(default=0.5, description="a number")
    weights: list[float] = Field(default=[], description="several numbers")

    def __call__(self, batch: Any) -> Any: ...


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    return [Mine]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("RLHF_LAB_PLUGINS", "")
    return load_plugins([sys.modules[__name__]])


SPEC = {"advantage": {"name": "gae", "lam": 0.9}, "optimizer": "sgd", "budget": {"steps": 5}}


def arms(**study: Any) -> list[Arm]:
    return expand(Study.model_validate({"title": "t", "spec": SPEC, **study}))


def names(**study: Any) -> list[str]:
    return [arm.name for arm in arms(**study)]


def test_without_arms_there_is_the_common_spec() -> None:
    stage = Stage("", SPEC, (("spec",), ("arms", "base")))
    assert arms() == [Arm("base", (stage,), {"arm": "base"}, frozenset({"learning_curve"}))]


def test_an_arm_is_the_common_spec_with_its_overrides() -> None:
    arm = arms(arms={"low": {"advantage": {"lam": 0.1}}})[0]
    assert arm.stages[0].spec == {**SPEC, "advantage": {"name": "gae", "lam": 0.1}}
    assert arm.parameters == {"arm": "low", "advantage.lam": 0.1}


def test_arms_do_not_share_their_specs() -> None:
    one, two = arms(arms={"a": {}, "b": {}})
    one.stages[0].spec["advantage"]["lam"] = 0.0
    assert two.stages[0].spec == SPEC and SPEC["advantage"] == {"name": "gae", "lam": 0.9}


def test_a_mapping_with_a_name_replaces_the_component() -> None:
    assert merge(SPEC, {"advantage": {"name": "td"}})["advantage"] == {"name": "td"}


def test_a_bare_name_replaces_the_component() -> None:
    assert merge(SPEC, {"advantage": "td"})["advantage"] == "td"


def test_a_mapping_without_name_gives_a_bare_name_its_parameters() -> None:
    assert merge(SPEC, {"optimizer": {"lr": 0.1}})["optimizer"] == {"name": "sgd", "lr": 0.1}


def test_a_mapping_goes_in_where_nothing_was() -> None:
    assert merge({}, {"exact": {"horizon": 3}}) == {"exact": {"horizon": 3}}


def test_keys_may_be_dotted() -> None:
    assert merge(SPEC, {"advantage.lam": 0.1, "optimizer.lr": 1}) == {
        **SPEC,
        "advantage": {"name": "gae", "lam": 0.1},
        "optimizer": {"name": "sgd", "lr": 1},
    }


def test_keys_of_a_nested_mapping_may_be_dotted() -> None:
    merged = merge({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b.c": 3}})
    assert merged == {"a": {"b": {"c": 3, "d": 2}}}


def test_none_takes_a_component_out() -> None:
    assert merge(SPEC, {"advantage": None})["advantage"] is None


@pytest.mark.parametrize("override", [{"gamma": {"x": 1}}, {"gamma.x": 1}])
def test_a_parameter_of_a_number_is_refused(override: dict[str, Any]) -> None:
    with pytest.raises(LabError, match=r"gamma(\.x)?: cannot change a parameter of 0.9, which has none"):
        merge({"gamma": 0.9}, override)


def test_a_key_that_is_no_text_is_left_to_the_spec_s_check() -> None:
    assert merge({}, {"a": {1: 2}}) == {"a": {1: 2}}


def test_assign_makes_the_mappings_that_it_needs() -> None:
    data: dict[str, Any] = {"a": "name"}
    assign(data, "a.b", 1)
    assign(data, "c.d.e", 2)
    assign(data, "f", 3)
    assert data == {"a": {"name": "name", "b": 1}, "c": {"d": {"e": 2}}, "f": 3}


def test_the_grid_crosses_every_arm() -> None:
    grid = {"advantage.lam": [0.0, 1.0], "optimizer.lr": [1, 2]}
    found = arms(arms={"a": {}, "b": {}}, grid=grid)
    assert [arm.name for arm in found] == [
        f"{arm} lam={lam}, lr={lr}" for arm in "ab" for lam in (0, 1) for lr in (1, 2)
    ]  # fmt: skip
    spec = found[1].stages[0].spec
    assert spec["advantage"]["lam"] == 0.0 and spec["optimizer"] == {"name": "sgd", "lr": 2}
    assert found[1].parameters == {"arm": "a", "advantage.lam": 0.0, "optimizer.lr": 2}


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("advantage.n", 4, "n=4"),
        ("optimizer.lr", 2.0**-8, "lr=0.00390625"),
        ("trainer.whole", True, "whole=True"),
        ("advantage", "td", "td"),
        ("advantage", {"name": "td", "n": 2}, "td(n=2)"),
        ("advantage", {"name": "td"}, "td"),
    ],
)
def test_a_lone_arm_is_named_by_its_point_of_the_grid(path: str, value: Any, name: str) -> None:
    assert names(grid={path: [value]}) == [name]


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(LabError, match=r"two arms are called 'lam=0.5'; make the grid's values differ"):
        arms(grid={"advantage.lam": [0.5, 0.5]})


def test_an_arm_s_stages_are_its_spec_with_their_overrides() -> None:
    stages = {"sft": {"optimizer": "adam"}, "dpo": {"advantage": {"lam": 0.2}, "budget.steps": 9}}
    (arm,) = arms(arms={"both": {"budget": {"steps": 6}, "stages": stages}})
    assert [stage.name for stage in arm.stages] == ["sft", "dpo"]
    assert arm.stages[0].spec == {**SPEC, "optimizer": "adam", "budget": {"steps": 6}}
    assert arm.stages[1].spec == {**SPEC, "advantage": {"name": "gae", "lam": 0.2}, "budget": {"steps": 9}}
    assert arm.parameters["stages.dpo.advantage.lam"] == 0.2


def test_stages_of_the_common_spec_are_every_arm_s_unless_it_changes_them() -> None:
    spec = {**SPEC, "stages": {"a": {}, "b": {"optimizer": "adam"}}}
    same, other, none = arms(
        spec=spec, arms={"same": {}, "other": {"stages": {"b": {"budget.steps": 7}}}, "no": {"stages": None}}
    )
    assert [stage.name for stage in same.stages] == [stage.name for stage in other.stages] == ["a", "b"]
    assert other.stages[1].spec == {**SPEC, "optimizer": "adam", "budget": {"steps": 7}}
    assert none.stages == (Stage("", SPEC, (("spec",), ("arms", "no"))),)


def test_a_grid_reaches_all_stages_or_one_of_them() -> None:
    stages = {"a": {}, "b": {"budget": {"steps": 7}}}
    found = arms(arms={"x": {"stages": stages}}, grid={"advantage.lam": [0.1], "stages.a.budget.steps": [1, 2]})
    assert [arm.name for arm in found] == ["lam=0.1, steps=1", "lam=0.1, steps=2"]
    assert [[stage.spec["budget"]["steps"] for stage in arm.stages] for arm in found] == [[1, 7], [2, 7]]
    assert all(stage.spec["advantage"]["lam"] == 0.1 for arm in found for stage in arm.stages)


def test_stages_that_are_none_are_refused_with_their_place() -> None:
    study = Study.model_validate({"title": "t", "spec": SPEC, "arms": {"x": {"stages": {"a": 5}}}})
    with pytest.raises(LabError, match=r"^f.yaml:9:3: arms.x.stages.a: expected a mapping of overrides, found 5"):
        expand(study, {("arms", "x", "stages"): "f.yaml:8:1", ("arms", "x", "stages", "a"): "f.yaml:9:3"})


def test_an_arm_that_is_called_as_another_s_stage_is_refused() -> None:
    with pytest.raises(LabError, match="two arms are called 'x/a'"):
        arms(arms={"x": {"stages": {"a": {}}}, "x/a": {}})


def test_a_grid_without_values_is_refused() -> None:
    with pytest.raises(LabError, match=r"grid.advantage.lam: has no values, so the study would have no arms"):
        arms(grid={"advantage.lam": []})


def test_flatten_puts_a_component_under_its_own_path() -> None:
    data = {"advantage": {"name": "gae", "lam": 0.5, "inner": {"name": "x", "y": 1}}, "gamma": 1}
    assert flatten(data) == {
        "advantage": "gae",
        "advantage.lam": 0.5,
        "advantage.inner": "x",
        "advantage.inner.y": 1,
        "gamma": 1,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("1e-3", 0.001),
        ("4", 4),
        ("true", True),
        ("td", "td"),
        ("[1, 2]", [1, 2]),
        ("", None),
        ("a=b", "a=b"),
    ],
)
def test_an_assignment_s_value_is_read_as_yaml(text: str, value: Any) -> None:
    assert parse_assignment(f" a.b ={text}") == ("a.b", value)


@pytest.mark.parametrize("text", ["lam", "=1", " =1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(LabError, match=rf"expected PATH=VALUE, found '{text}'; for example trainer.epochs=4"):
        parse_assignment(text)


def test_a_value_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(LabError, match=r"^a: '\[1' is no YAML value: "):
        parse_assignment("a=[1")


STUDY = {"title": "t", "spec": SPEC, "arms": {"gae": {}}, "seeds": 3}


def edited(registry: Registry, *arms: str, study: Any = STUDY, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    return edit_study(study, registry, arms=list(arms), settings=list(settings), seeds=None)


def test_an_added_arm_exchanges_one_component(registry: Registry) -> None:
    found = edited(registry, "mine,lam=0.25")["arms"]
    assert found == {"gae": {}, "mine,lam=0.25": {"advantage": {"name": "mine", "lam": 0.25}}}


def test_a_study_without_arms_keeps_its_common_spec_beside_the_added_arm(registry: Registry) -> None:
    study = {key: x for key, x in STUDY.items() if key != "arms"}
    assert list(edited(registry, "mine", study=study)["arms"]) == ["base", "mine"]


def test_commas_inside_of_brackets_belong_to_the_value(registry: Registry) -> None:
    found = edited(registry, "mine,weights=[1,2],lam=0.25")["arms"]["mine,weights=[1,2],lam=0.25"]
    assert found == {"advantage": {"name": "mine", "weights": [1, 2], "lam": 0.25}}


def test_a_nested_parameter_of_an_added_arm(registry: Registry) -> None:
    assert edited(registry, "mine,a.b=1")["arms"]["mine,a.b=1"] == {"advantage": {"name": "mine", "a": {"b": 1}}}


def test_an_arm_of_an_unknown_component_is_refused(registry: Registry) -> None:
    with pytest.raises(LabError, match=r"no component is called 'mne'. Did you mean 'mine'\?"):
        edited(registry, "mne,lam=1")


def test_the_same_arm_twice_is_refused(registry: Registry) -> None:
    with pytest.raises(LabError, match="--arm mine: the study has an arm of that name already"):
        edited(registry, "mine", "mine")


def test_arms_that_are_no_mapping_are_refused(registry: Registry) -> None:
    with pytest.raises(LabError, match=r"--arm mine: the study's arms are \['gae'\], expected a mapping"):
        edited(registry, "mine", study={**STUDY, "arms": ["gae"]})


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("seeds=5", ("seeds",), 5),
        ("advantage.lam=0.1", ("spec", "advantage", "lam"), 0.1),
        ("spec.advantage.lam=0.1", ("spec", "advantage", "lam"), 0.1),
        ("arms.gae.gamma=1", ("arms", "gae", "gamma"), 1),
        ("optimizer=adam", ("spec", "optimizer"), "adam"),
    ],
)
def test_a_setting_starts_in_the_spec_or_names_a_key_of_the_study(
    registry: Registry, setting: str, path: tuple[str, ...], value: Any
) -> None:
    found: Any = edited(registry, settings=(setting,))
    for key in path:
        found = found[key]
    assert found == value


def test_the_number_of_seeds_is_set(registry: Registry) -> None:
    assert edit_study(STUDY, registry, arms=[], settings=["seeds=4"], seeds=7)["seeds"] == 7


@pytest.mark.parametrize(("setting", "part"), [("advantage.lam=0.1", "advantage"), ("spec={advantage: mine}", "spec")])
def test_a_setting_that_no_arm_sees_is_refused(registry: Registry, setting: str, part: str) -> None:
    study = {**STUDY, "spec": {"advantage": {"name": "mine", "lam": 0.2}}, "arms": {"own": {"advantage": "mine"}}}
    with pytest.raises(LabError) as refused:
        edited(registry, study=study, settings=(setting,))
    assert str(refused.value) == f"--set {setting}: changes nothing, because every arm has its own {part}"


def test_editing_leaves_the_original_alone(registry: Registry) -> None:
    before = yaml.safe_dump(STUDY)
    edited(registry, "mine", settings=("advantage.lam=0.1",))
    assert yaml.safe_dump(STUDY) == before


@pytest.mark.parametrize("spec", [3, ["a"]])
def test_a_setting_in_a_spec_that_is_no_mapping_is_refused(registry: Registry, spec: Any) -> None:
    with pytest.raises(LabError, match=r"spec.gamma: cannot change a parameter of"):
        edited(registry, study={**STUDY, "spec": spec}, settings=("gamma=1",))


def test_settings_of_a_run_change_its_spec() -> None:
    assert apply_settings(SPEC, ["advantage.lam=0.1", "gamma=1"])["advantage"] == {"name": "gae", "lam": 0.1}


def test_a_printed_study_can_be_read_again() -> None:
    text = study_yaml(STUDY)
    assert (
        text.startswith("# yaml-language-server: $schema=rlhf-lab-study.schema.json\n")
        and yaml.safe_load(text) == STUDY
    )


WHERE = {
    (): "s.yaml:1:1",
    ("seeds",): "s.yaml:2:1",
    ("spec", "advantage"): "s.yaml:3:3",
    ("spec", "advantage", "lam"): "s.yaml:3:25",
}


def places(registry: Registry, *arms: str, settings: tuple[str, ...] = (), seeds: int | None = None) -> Any:
    study = edit_study(STUDY, registry, arms=list(arms), settings=list(settings), seeds=seeds)
    found = study_places(WHERE, study, arms=list(arms), settings=list(settings), seeds=seeds)
    return {key: place for key, place in found.items() if WHERE.get(key) != place}


def test_a_setting_stands_in_its_option(registry: Registry) -> None:
    option = "--set advantage.lam=7"
    assert places(registry, settings=("advantage.lam=7",)) == {("spec", "advantage", "lam"): option}


def test_what_a_setting_replaces_stands_no_longer_in_the_file(registry: Registry) -> None:
    setting = "advantage={name: gae, lam: 7}"
    study = edit_study(STUDY, registry, arms=[], settings=[setting], seeds=None)
    found = study_places(WHERE, study, arms=[], settings=[setting], seeds=None)
    assert found == {(): "s.yaml:1:1", ("seeds",): "s.yaml:2:1", ("spec", "advantage"): f"--set {setting}"}


def test_a_name_that_was_set_stands_where_its_component_does(registry: Registry) -> None:
    option = "--set advantage.name=gea"
    expected = {("spec", "advantage", "name"): option, ("spec", "advantage"): option}
    assert places(registry, settings=("advantage.name=gea",)) == expected


def test_an_added_arm_stands_in_its_option(registry: Registry) -> None:
    arm = ("arms", "mine,lam=7")
    option = "--arm mine,lam=7"
    assert places(registry, "mine,lam=7") == {
        (*arm, "advantage"): option,
        (*arm, "advantage", "lam"): option,
    }


def test_the_number_of_seeds_stands_in_its_option(registry: Registry) -> None:
    assert places(registry, seeds=5) == {("seeds",): "--seeds 5"}


def test_arms_that_a_setting_made_no_mapping_have_no_places(registry: Registry) -> None:
    assert places(registry, "mine", settings=("arms=3",)) == {("arms",): "--set arms=3"}


def test_a_setting_of_a_run_stands_in_its_option() -> None:
    assert spec_places({("gamma",): "r.yaml:1:1"}, ["gamma=7"]) == {("gamma",): "--set gamma=7"}


@pytest.mark.parametrize("setting", ["gamma", "gamma=[", "gamma.x=1"])
def test_a_setting_that_cannot_be_made_names_its_option(setting: str) -> None:
    with pytest.raises(LabError) as refused:
        apply_settings({"gamma": 1}, [setting])
    assert str(refused.value).startswith(f"--set {setting}: ")
