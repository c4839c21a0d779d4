"""JSON Schema of studies and run specs, with every registered component, so that editors complete and check YAML."""

from __future__ import annotations

from typing import Any, Final, Literal

from rlhf_lab.components import Component
from rlhf_lab.registry import Registry
from rlhf_lab.spec import COMPOSED, RunSpec
from rlhf_lab.study.schema import Study

__all__ = ["json_schema"]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

STAGES: Final = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "object"},
    "description": "overrides by stage; each begins with the weights of those before it",
}


def json_schema(registry: Registry, what: Literal["study", "run"]) -> dict[str, Any]:
    """Return the schema of a run spec, or of a study whose ``spec`` is one with nothing required.

    Both may name ``stages``, each a mapping of overrides; a run with stages requires nothing of the common spec.
    """
    run = _of(RunSpec)
    definitions: dict[str, Any] = run.pop("$defs", {})
    for role in sorted({"environment", "policy", "trainer", *COMPOSED, *registry.roles()}):
        definitions[role] = _role(registry, role, definitions)
    common = {key: value for key, value in run.items() if key != "required"}
    if what == "run":
        chain = {**common, "properties": {**run["properties"], "stages": STAGES}, "required": ["stages"]}
        return {"$schema": DIALECT, "anyOf": [run, chain], "$defs": definitions}
    study = _of(Study)
    definitions |= study.pop("$defs", {})
    stages = {"anyOf": [STAGES, {"type": "null"}]}  # null: an arm without the common spec's stages
    definitions["spec"] = {**common, "properties": {**run["properties"], "stages": stages}}
    measure = {key: value for key, value in study["properties"]["measure"].items() if key != "description"}
    own = {"stages": stages, "measure": measure}
    study["properties"]["arms"]["additionalProperties"] = {"type": "object", "properties": own}
    study["properties"]["spec"] = {"$ref": "#/$defs/spec"}
    return {"$schema": DIALECT, **study, "$defs": definitions}


def _role(registry: Registry, role: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a slot: a name, or a mapping with a name and that component's parameters."""
    options: list[dict[str, Any]] = []
    names = []
    for component in registry.components(role):
        names.append(component.name)
        options.append({"$ref": f"#/$defs/{role}.{component.name}"})
        definitions[f"{role}.{component.name}"] = _component(component, definitions)
    return {"anyOf": [{"enum": names}, *options]}


def _component(component: type[Component], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _of(component)
    definitions |= schema.pop("$defs", {})
    schema["properties"] = {"name": {"const": component.name}, **schema.get("properties", {})}
    schema["required"] = ["name"]
    return schema


def _of(model: type[Any]) -> dict[str, Any]:
    schema: dict[str, Any] = _linked(model.model_json_schema())
    return schema


def _linked(schema: Any) -> Any:
    """Return the schema in which every slot refers to its role's definition."""
    if isinstance(schema, list):
        return [_linked(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    linked = {key: _linked(value) for key, value in schema.items() if key != "x-role"}
    return linked | {"$ref": f"#/$defs/{schema['x-role']}"} if "x-role" in schema else linked
