"""JSON Schema of studies and run specs, with every registered component, so that editors complete and check YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from rlhf_lab.components import Component
from rlhf_lab.registry import Registry
from rlhf_lab.spec import COMPOSED, RunSpec
from rlhf_lab.study.schema import Study

__all__ = ["json_schema"]


class _Generator(GenerateJsonSchema):
    """Leaves references to roles alone; they are defined from the registry afterwards."""

    def get_schema_from_definitions(self, json_ref: Any) -> JsonSchemaValue | None:
        try:
            return super().get_schema_from_definitions(json_ref)
        except KeyError:
            return None


def json_schema(registry: Registry, what: Literal["study", "run"]) -> dict[str, Any]:
    """Return the schema of a run spec, or of a study whose ``spec`` is one with nothing required."""
    run = _of(RunSpec)
    definitions: dict[str, Any] = run.pop("$defs", {})
    for role in sorted({"environment", "policy", "trainer", *COMPOSED, *registry.roles()}):
        definitions[role] = _role(registry, role, definitions)
    if what == "run":
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **run, "$defs": definitions}
    study = _of(Study)
    definitions |= study.pop("$defs", {})
    definitions["spec"] = {key: value for key, value in run.items() if key != "required"}
    study["properties"]["spec"] = {"$ref": "#/$defs/spec"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **study, "$defs": definitions}


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
    schema: dict[str, Any] = model.model_json_schema(schema_generator=_Generator, mode="validation")
    return schema
