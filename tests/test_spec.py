"""A spec is refused before anything runs, in words that name the place, who needs what, and what would do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field

from rlhf_lab import hookimpl
from rlhf_lab.components import (
    AdvantageEstimator,
    Aggregation,
    Component,
    Environment,
    KLEstimator,
    Policy,
    PolicyObjective,
    RewardFunction,
    Slot,
    Trainer,
    ValueObjective,
)
from rlhf_lab.errors import LabError
from rlhf_lab.registry import Registry, load_plugins
from rlhf_lab.schema import json_schema
from rlhf_lab.spec import RunSpec, load_yaml, make_spec
from rlhf_lab.study.arms import expand
from rlhf_lab.study.schema import Study


class Payment(RewardFunction):
    """Held by the world."""

    name = "payment"
    amount: float = Field(default=1.0, ge=0)


class World(Environment):
    """A toy world."""

    name = "world"
    provides = frozenset({"log_probs"})
    gamma: float = Field(default=1.0, ge=0, le=1)
    pays: Annotated[RewardFunction, Slot("reward")] = Payment()

    def build(self, runs: int, envs: int, streams: Any) -> Any: ...


class Table(Policy):
    """A toy policy; values only with a critic."""

    name = "table"
    critic: bool = True

    def gives(self) -> frozenset[str]:
        return frozenset({"values", "next_values"} if self.critic else ())

    def build(self, spaces: Any, runs: int, streams: Any) -> Any: ...


class Loop(Trainer):
    """A toy trainer."""

    name = "loop"
    uses: ClassVar[Mapping[str, bool]] = {"advantage": True, "objective": True, "aggregation": False, "value": False}
    provides = frozenset({"group_ids"})
    group_size: int = 0
    gamma: float = Field(default=0.99, ge=0, lt=1)

    def gives(self) -> frozenset[str]:
        return self.provides if self.group_size else frozenset()

    def problems(self, components: Mapping[str, Component]) -> list[str]:
        return ["trainer.group_size: thirteen is bad luck"] if self.group_size == 13 else []

    def warnings(self, components: Mapping[str, Component]) -> list[str]:
        return ["trainer.group_size: seven is good luck"] if self.group_size == 7 else []

    def build(self, setup: Any) -> Any: ...


class Ready(Loop):
    """A toy trainer that brings what the spec leaves out."""

    name = "ready"
    defaults: ClassVar[Mapping[str, str]] = {"advantage": "rewards"}


class KLLoop(Loop):
    """A toy trainer that uses everything but an optimizer."""

    name = "kl_loop"
    uses: ClassVar[Mapping[str, bool]] = {**Loop.uses, "kl": False}


class Gae(AdvantageEstimator):
    """Needs a critic."""

    name = "gae"
    requires = frozenset({"values", "next_values"})
    gamma: float = Field(default=0.99, ge=0, le=1)
    lam: float = Field(default=0.95, ge=0, le=1)

    def __call__(self, batch: Any) -> Any: ...


class Rewards(AdvantageEstimator):
    """Needs nothing."""

    name = "rewards"

    def __call__(self, batch: Any) -> Any: ...


class Group(AdvantageEstimator):
    """Needs what only a trainer's option gives."""

    name = "group"
    requires = frozenset({"group_ids"})

    def __call__(self, batch: Any) -> Any: ...


class Strange(AdvantageEstimator):
    """Needs what nobody gives."""

    name = "strange"
    requires = frozenset({"score_norms"})

    def __call__(self, batch: Any) -> Any: ...


class Reinforce(PolicyObjective):
    """Defined with a sum."""

    name = "reinforce"
    aggregations = ("sum", "mean")

    def __call__(self, batch: Any) -> Any: ...


class Sum(Aggregation):
    """The usual one."""

    name = "sum"

    def __call__(self, valid: Any, ends: Any) -> Any: ...


class Mean(Sum):
    """Another one that defines it."""

    name = "mean"


class Constant(Sum):
    """One that does not."""

    name = "constant"


class Mse(ValueObjective):
    """Needs a critic by its role."""

    name = "mse"

    def __call__(self, batch: Any) -> Any: ...


class K1(KLEstimator):
    """Needs a reference by its role."""

    name = "k1"

    def __call__(self, log_probs: Any, ref_log_probs: Any, *, old_log_probs: Any = None) -> Any: ...


CLASSES = [v for v in list(globals().values()) if isinstance(v, type) and v.__module__ == __name__]


@hookimpl
def rlhf_lab_components() -> list[type[Component]]:
    return CLASSES


GOOD = {"environment": "world", "policy": "table", "trainer": "loop", "advantage": "rewards", "objective": "reinforce"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_LAB_PLUGINS", "")
        found = load_plugins([sys.modules[__name__]])
    assert found.broken == []
    return found


def refused(registry: Registry, changes: Mapping[str, Any], where: Any = None) -> str:
    with pytest.raises(LabError) as caught:
        make_spec({k: v for k, v in {**GOOD, **changes}.items() if v is not ...}, registry, where)
    return str(caught.value)


def made(registry: Registry, **changes: Any) -> RunSpec:
    spec, warnings = make_spec({**GOOD, **changes}, registry)
    assert warnings == []
    return spec


def test_a_good_spec_is_made_of_components(registry: Registry) -> None:
    assert made(registry).components == {"advantage": Rewards(), "objective": Reinforce(), "aggregation": Sum()}


def test_a_trainer_brings_what_the_spec_leaves_out(registry: Registry) -> None:
    spec, _ = make_spec({k: v for k, v in GOOD.items() if k != "advantage"} | {"trainer": "ready"}, registry)
    assert spec.advantage == Rewards()
    assert made(registry, trainer="ready", advantage={"name": "gae", "lam": 0.5}).advantage == Gae(lam=0.5)


def test_what_trainers_bring_is_what_they_use() -> None:
    trainers: list[Any] = load_plugins().components("trainer")
    assert all(trainer.defaults.keys() <= trainer.uses.keys() for trainer in trainers)


def test_a_resolved_spec_can_be_read_again(registry: Registry) -> None:
    spec = made(registry, environment={"name": "world", "pays": {"name": "payment", "amount": 2}})
    again, warnings = make_spec(spec.model_dump(mode="json"), registry)
    assert again == spec and warnings == []


def test_what_is_missing_is_told(registry: Registry) -> None:
    assert refused(registry, {"policy": ...}) == "policy: is missing"


def test_an_unknown_key_is_answered_with_the_nearest(registry: Registry) -> None:
    assert refused(registry, {"advantag": "gae"}).startswith(
        "advantag: is no parameter here. Did you mean 'advantage'? Possible: advantage, aggregation, "
    )


def test_an_unknown_name_is_answered_with_the_nearest(registry: Registry) -> None:
    assert refused(registry, {"advantage": "gea"}).startswith(
        "advantage: no advantage is called 'gea'. Did you mean 'gae'?"
    )


def test_a_nested_error_tells_its_path(registry: Registry) -> None:
    found = refused(registry, {"environment": {"name": "world", "pays": {"name": "payment", "amount": -1}}})
    assert found == "environment.pays.amount: Input should be greater than or equal to 0, found -1"


def test_a_nested_unknown_parameter_is_answered_with_the_nearest(registry: Registry) -> None:
    found = refused(registry, {"environment": {"name": "world", "pays": {"name": "payment", "amout": 1}}})
    assert found == "environment.pays.amout: is no parameter here. Did you mean 'amount'? Possible: amount."


def test_all_errors_are_told_at_once(registry: Registry) -> None:
    found = refused(registry, {"gamma": 2, "advantage": {"name": "gae", "lam": 2}, "policy": 3})
    assert [line.split(":")[0] for line in found.splitlines()] == ["policy", "advantage.lam", "gamma"]


@pytest.mark.parametrize("data", [3, [], "world"])
def test_what_is_no_mapping_is_refused(registry: Registry, data: Any) -> None:
    with pytest.raises(LabError, match="valid dictionary"):
        make_spec(data, registry)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "budget: give exactly one of iterations, steps, episodes; found none"),
        ({"steps": 5, "episodes": 2}, "exactly one of iterations, steps, episodes; found {'steps': 5, 'episodes': 2}"),
        ({"steps": 0}, "budget.steps: Input should be greater than or equal to 1, found 0"),
        ({"step": 5}, "budget.step: is no parameter here"),
        (5, "budget: Input should be a valid dictionary or instance of Budget, found 5"),
    ],
)
def test_a_bad_budget_is_refused(registry: Registry, budget: Any, message: str) -> None:
    assert message in refused(registry, {"budget": budget})


def test_a_budget_has_one_unit(registry: Registry) -> None:
    budget = made(registry, budget={"episodes": 7}).budget
    assert (budget.unit, budget.amount) == ("episodes", 7)


def test_what_a_component_needs_and_nobody_gives_is_refused(registry: Registry) -> None:
    assert refused(registry, {"advantage": "strange"}) == (
        "advantage: 'strange' needs score_norms, which neither environment 'world' nor policy 'table' "
        "nor trainer 'loop' provides as configured. No registered component provides it."
    )


def test_who_would_provide_it_is_told_even_where_it_is_an_option(registry: Registry) -> None:
    found = refused(registry, {"advantage": "gae", "policy": {"name": "table", "critic": False}})
    assert [line.split(", which")[0] for line in found.splitlines()] == [
        "advantage: 'gae' needs next_values",
        "advantage: 'gae' needs values",
    ]
    assert found.count("It can come from: policy 'table'.") == 2


def test_a_provider_that_gives_it_only_when_asked_is_named(registry: Registry) -> None:
    found = refused(registry, {"advantage": "group"})
    assert found.endswith("It can come from: trainer 'kl_loop', trainer 'loop', trainer 'ready'.")


def test_what_an_option_provides_is_there_with_the_option(registry: Registry) -> None:
    assert made(registry, advantage="group", trainer={"name": "loop", "group_size": 4}).advantage == Group()


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        ({"value": "mse", "policy": {"name": "table", "critic": False}}, "value: 'mse' needs values"),
        ({"kl": "k1", "trainer": "kl_loop"}, "kl: 'k1' needs ref_log_probs"),
    ],
)
def test_some_roles_need_something_as_such(registry: Registry, changes: dict[str, Any], need: str) -> None:
    assert refused(registry, changes).startswith(need)


def test_a_role_that_the_trainer_does_not_use_is_refused(registry: Registry) -> None:
    found = refused(registry, {"kl": "k1"}).splitlines()
    assert found[0] == "kl: trainer 'loop' does not use it; it uses: advantage, aggregation, objective, value"


def test_a_role_that_the_trainer_needs_is_asked_for(registry: Registry) -> None:
    assert refused(registry, {"objective": ...}) == "objective: trainer 'loop' needs one; add `objective: NAME`"


def test_the_trainer_has_a_say(registry: Registry) -> None:
    assert (
        refused(registry, {"trainer": {"name": "loop", "group_size": 13}}) == "trainer.group_size: thirteen is bad luck"
    )


def test_the_trainer_may_warn(registry: Registry) -> None:
    warnings = make_spec({**GOOD, "trainer": {"name": "loop", "group_size": 7}}, registry)[1]
    assert warnings == ["trainer.group_size: seven is good luck"]


def test_without_a_trainer_needs_are_met_by_the_world_itself(registry: Registry) -> None:
    spec = {"environment": "world", "policy": {"name": "table", "critic": False}, "advantage": "gae"}
    assert make_spec(spec, registry)[0].components == {"advantage": Gae()}


def test_without_a_trainer_what_exact_measures_do_not_use_is_refused(registry: Registry) -> None:
    found = refused(registry, {"trainer": ..., "value": "mse"})
    assert found == "value: nothing uses it without a trainer; exact measures use: advantage, normalizer, objective"


def test_one_gamma_reaches_every_component_that_has_one(registry: Registry) -> None:
    spec = made(registry, advantage="gae", gamma=0.5)
    assert (spec.environment.gamma, spec.trainer.gamma, spec.advantage.gamma) == (0.5, 0.5, 0.5)


class Undiscounted(World):
    """Judged by what an episode pays in all."""

    name = "undiscounted"
    undiscounted = True


def test_gamma_is_one_where_an_undiscounted_world_is_given_none(registry: Registry) -> None:
    data = {**GOOD, "environment": Undiscounted(), "advantage": "gae", "trainer": {"name": "loop", "gamma": 0.5}}
    assert make_spec(data, registry)[0].advantage.gamma == 1.0
    assert made(registry, advantage="gae").advantage.gamma == 0.99


def test_a_discount_in_an_undiscounted_world_warns(registry: Registry) -> None:
    spec, warnings = make_spec({**GOOD, "environment": Undiscounted(), "gamma": 0.5}, registry)
    assert spec.gamma == 0.5
    assert warnings == [
        "gamma: is 0.5, but environment 'undiscounted' is judged without discount; leave it out, unless this is meant"
    ]


def test_the_spread_gamma_leaves_other_parameters_alone(registry: Registry) -> None:
    assert made(registry, advantage={"name": "gae", "lam": 0.1}, gamma=0.5).advantage == Gae(lam=0.1, gamma=0.5)


def test_another_gamma_in_a_component_stays_and_warns(registry: Registry) -> None:
    data = {**GOOD, "advantage": {"name": "gae", "gamma": 0.9}, "gamma": 0.5}
    spec, warnings = make_spec(data, registry)
    assert spec.advantage.gamma == 0.9
    assert warnings == [
        "advantage 'gae' has gamma 0.9, but the spec's is 0.5; "
        "set gamma once, at the top of the spec, unless this is meant"
    ]


def test_the_same_gamma_in_a_component_does_not_warn(registry: Registry) -> None:
    assert made(registry, advantage={"name": "gae", "gamma": 0.5}, gamma=0.5).advantage.gamma == 0.5


def test_a_gamma_that_a_component_cannot_have_is_refused(registry: Registry) -> None:
    assert refused(registry, {"gamma": 1}) == "trainer.gamma: Input should be less than 1, found 1.0 (the spec's gamma)"


@pytest.mark.parametrize("name", ["sum", "mean"])
def test_an_aggregation_that_defines_the_objective_does_not_warn(registry: Registry, name: str) -> None:
    assert made(registry, aggregation=name).aggregation.name == name


def test_another_aggregation_warns(registry: Registry) -> None:
    warnings = make_spec({**GOOD, "aggregation": "constant"}, registry)[1]
    assert warnings == [
        "objective 'reinforce' is defined with aggregation sum or mean; 'constant' makes another objective of it"
    ]


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def unreadable(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(LabError) as caught:
        load_yaml(written(tmp_path, text))
    return str(caught.value)


def from_file(registry: Registry, tmp_path: Path, text: str) -> str:
    data, where = load_yaml(written(tmp_path, text))
    with pytest.raises(LabError) as caught:
        make_spec(data, registry, where)
    return str(caught.value)


SPEC = """\
environment: world
policy: table
trainer: loop
objective: reinforce
advantage:
  name: gae
  lam: 1.5
"""


def test_an_error_names_line_and_column(registry: Registry, tmp_path: Path) -> None:
    assert from_file(registry, tmp_path, SPEC).startswith(
        f"{tmp_path}/file.yaml:7:3: advantage.lam: Input should be less"
    )


def test_an_error_on_one_line_names_its_column(registry: Registry, tmp_path: Path) -> None:
    text = SPEC.split("advantage:")[0] + "\nadvantage: {name: gae, lam: 1.5}"
    assert from_file(registry, tmp_path, text).startswith(f"{tmp_path}/file.yaml:6:24: advantage.lam: ")


def test_what_is_missing_is_placed_at_the_nearest_key_above(registry: Registry, tmp_path: Path) -> None:
    assert (
        from_file(registry, tmp_path, "# a comment\npolicy: table\n")
        == f"{tmp_path}/file.yaml:2:1: environment: is missing"
    )


def test_a_problem_of_the_composition_is_placed_too(registry: Registry, tmp_path: Path) -> None:
    text = SPEC.replace("1.5", "0.5").replace("loop", "{name: loop, group_size: 13}")
    assert from_file(registry, tmp_path, text) == f"{tmp_path}/file.yaml:3:23: trainer.group_size: thirteen is bad luck"


def test_a_problem_with_what_is_not_written_is_placed_at_the_top(registry: Registry, tmp_path: Path) -> None:
    text = SPEC.replace("objective: reinforce\n", "").replace("1.5", "0.5")
    assert from_file(registry, tmp_path, text).startswith(
        f"{tmp_path}/file.yaml:1:1: objective: trainer 'loop' needs one"
    )


def test_positions_of_list_items(tmp_path: Path) -> None:
    _, where = load_yaml(written(tmp_path, "a:\n  - b: 1\n  - c: 2\n"))
    assert where["a", "1", "c"] == f"{tmp_path}/file.yaml:3:5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1: the key 'a' stands twice; keep one"),
        ("a:\n  b: 2\n  b: 3\n", ":3:3: the key 'b' stands twice; keep one"),
        ("a: 1\n1: 2\n", ":2:1: YAML does not read the key 1 as a text; put it in quotes"),
        ("a: {no: 2}\n", ":1:5: YAML does not read the key no as a text; put it in quotes"),
        ("[a]: 1\n", ":1:1: a key must be a word, found a sequence"),
        (
            "a:\n\tb: 1\n",
            ":2:1: no YAML: found character '\\t' that cannot start any token (while scanning for the next token",
        ),
        (
            "a: [1, 2\nb: 3\n",
            ":2:2: no YAML: expected ',' or ']', but got ':' (while parsing a flow sequence from line 1 on)",
        ),
        ("a: 1\n--- \nb: 2\n", ":2:1: no YAML: but found another document"),
        ("a: !!python/object:os.system {}\n", ":1:4: no YAML: could not determine a constructor for the tag"),
        ("a: *b\n", ":1:4: no YAML: found undefined alias 'b'"),
        ("a: \x01\n", ": no YAML: unacceptable character"),
        ("", ": expected a mapping of keys at the top, found an empty file"),
        ("# nothing\n", ": expected a mapping of keys at the top, found an empty file"),
        ("- a\n- b\n", ": expected a mapping of keys at the top, found a list"),
        ("just text", ": expected a mapping of keys at the top, found a str"),
    ],
)
def test_a_file_that_cannot_be_read_as_a_mapping(tmp_path: Path, text: str, message: str) -> None:
    assert unreadable(tmp_path, text).startswith(f"{tmp_path}/file.yaml{message}")


def test_a_tab_is_told_what_to_do_about(tmp_path: Path) -> None:
    assert unreadable(tmp_path, "a:\n\tb: 1\n").endswith("; indent with spaces")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    assert unreadable(tmp_path, b"a: \xff\xfe").startswith(
        f"cannot read {tmp_path}/file.yaml: 'utf-8' codec can't decode byte"
    )


@pytest.mark.parametrize("name", ["missing.yaml", ""])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match=f"cannot read {tmp_path / name}: "):
        load_yaml(tmp_path / name)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001"])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str) -> None:
    assert load_yaml(written(tmp_path, f"lr: {text}\n"))[0] == {"lr": 0.001}


def test_anchors_aliases_and_merges_are_read(tmp_path: Path) -> None:
    data, where = load_yaml(written(tmp_path, "a: &x {lam: 1}\nb: *x\nc: {<<: *x, n: 2}\n"))
    assert data == {"a": {"lam": 1}, "b": {"lam": 1}, "c": {"lam": 1, "n": 2}}
    assert where["b",] == f"{tmp_path}/file.yaml:2:1"


def refers(schema: Any) -> set[str]:
    """Every reference in a JSON schema."""
    if isinstance(schema, list):
        return set().union(*map(refers, schema), set())
    if not isinstance(schema, dict):
        return set()
    return {v for k, v in schema.items() if k == "$ref"} | set().union(*map(refers, schema.values()), set())


def allows(schema: Any, value: Any, root: Any) -> bool:
    """Whether a value fits a schema, as far as specs need it: types, names, unknown and missing keys."""
    if "$ref" in schema:
        return allows(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], value, root)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(allows(option, value, root) for option in schema[key])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    kinds = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool}
    kind = schema.get("type")
    if kind == "null" or kind is None:
        return kind is None or value is None
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return False
    if kind == "array":
        return all(allows(schema.get("items", {}), item, root) for item in value)
    if kind != "object":
        return (
            value >= schema.get("minimum", value) and value <= schema.get("maximum", value)
            if kind != "string"
            else True
        )
    other = schema.get("additionalProperties", True)
    properties = schema.get("properties", {})
    return set(schema.get("required", ())) <= value.keys() and all(
        allows(properties[k], v, root)
        if k in properties
        else other is not False and (other is True or allows(other, v, root))
        for k, v in value.items()
    )


@pytest.mark.parametrize("what", ["run", "study"])
def test_no_reference_of_the_schema_is_dangling(registry: Registry, what: Any) -> None:
    schema = json_schema(registry, what)
    assert refers(schema) <= {f"#/$defs/{name}" for name in schema["$defs"]}


def test_the_schema_knows_components_by_name_and_parameters(registry: Registry) -> None:
    schema = json_schema(registry, "run")
    assert schema["$defs"]["advantage"]["anyOf"][0] == {"enum": ["gae", "group", "rewards", "strange"]}
    gae = schema["$defs"]["advantage.gae"]
    assert gae["properties"]["name"] == {"const": "gae"} and gae["required"] == ["name"]
    assert gae["properties"]["lam"]["maximum"] == 1 and gae["additionalProperties"] is False


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True),
        ({"advantage": {"name": "gae", "lam": 0.5}, "budget": {"steps": 5}}, True),
        ({"environment": {"name": "world", "pays": {"name": "payment", "amount": 2}}}, True),
        ({"value": None}, True),
        ({"advantage": {"name": "gae", "lam": 1.5}}, False),
        ({"advantage": {"name": "gae", "lamb": 0.5}}, False),
        ({"advantage": {"lam": 0.5}}, False),
        ({"advantage": "gea"}, False),
        ({"environment": {"name": "world", "pays": "gae"}}, False),
        ({"advantag": "gae"}, False),
    ],
)
def test_the_schema_agrees_with_the_check(registry: Registry, changes: dict[str, Any], fits: bool) -> None:
    schema = json_schema(registry, "run")
    assert allows(schema, {**GOOD, **changes}, schema) is fits


def test_a_run_may_be_a_chain_of_stages(registry: Registry) -> None:
    schema = json_schema(registry, "run")
    chain = {"environment": "world", "stages": {"first": {"policy": "table"}, "second": {}}}
    assert allows(schema, chain, schema)
    assert not allows(schema, {**chain, "stages": {"first": "table"}}, schema)


def test_a_study_s_spec_and_arms_may_have_stages(registry: Registry) -> None:
    schema = json_schema(registry, "study")
    stages = {"first": {"policy": "table"}, "second": {}}
    study = {"title": "t", "spec": {"environment": "world", "stages": stages}, "arms": {"a": {"stages": None}, "b": {}}}
    assert allows(schema, study, schema)
    assert allows(schema, {**study, "arms": {"a": {"stages": stages}}}, schema)
    assert not allows(schema, {**study, "arms": {"a": {"stages": {"first": "table"}}}}, schema)


def test_a_study_may_leave_out_what_its_arms_add(registry: Registry) -> None:
    schema = json_schema(registry, "study")
    study = {"title": "t", "spec": {"environment": "world"}, "arms": {"a": {"policy": "table"}}, "seeds": [1, 2]}
    assert allows(schema, study, schema)
    assert not allows(schema, {**study, "spec": {"enviroment": "world"}}, schema)


def test_shipped_studies_fit_the_schema() -> None:
    registry = load_plugins()
    schema = json_schema(registry, "study")
    assert refers(schema) <= {f"#/$defs/{name}" for name in schema["$defs"]}
    paths = [path for paths in registry.studies.values() for path in paths]
    assert paths and [path.stem for path in paths if not allows(schema, load_yaml(path)[0], schema)] == []


def test_every_arm_of_the_shipped_studies_is_a_good_spec() -> None:
    registry = load_plugins()
    for paths in registry.studies.values():
        for arm in expand(Study.model_validate(load_yaml(paths[0])[0])):
            for stage in arm.stages:
                make_spec(stage.spec, registry)
