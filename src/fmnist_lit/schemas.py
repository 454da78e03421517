"""Writes conf/schemas/ from signatures: by them an editor completes and checks the files of conf/."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from fmnist_lit.build import TARGET, arguments_of, is_node
from fmnist_lit.config import Config

ONE = ("data", "model", "optim", "patch", "schedule")  # groups that describe an object
SEVERAL = ("augment", "callbacks", "logger", "metrics")  # and those that name several
ELSEWHERE = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # where a value is to be found
Schema = dict[str, Any]


class Plain(GenerateJsonSchema):
    """JSON schemas without titles; what has no form in JSON may be anything."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (as pydantic has it)

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Leave titles out."""
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        """Take anything."""
        return {}


def properties(model: type[BaseModel]) -> Schema:
    """Return what a model's keys may be; none is required, for a file may add to another."""
    schema = model.model_json_schema(schema_generator=Plain)
    keys = {name: {"anyOf": [about, ELSEWHERE]} for name, about in schema["properties"].items()}
    extra: Schema = {key: schema[key] for key in ("additionalProperties", "$defs") if key in schema}
    return {"properties": {**keys, "defaults": {"type": "array"}}, "additionalProperties": False, **extra}


def node_schema(files: list[Any], key: str) -> Schema:
    """Return the schema of the nodes of a key, for the targets that files name; any other is free."""
    found = sorted({node[TARGET] for node in files if is_node(node)})
    inner = {name for node in files for name, value in node.items() if is_node(value)}
    parts: Schema = {
        name: node_schema([n[name] for n in files if name in n], f"{key}.{name}") for name in inner
    }
    parts |= {"interval": {}, "monitor": {}} if key == "schedule" else {}
    branches = []
    for target in found:
        of_target = properties(arguments_of({TARGET: target}, key))
        of_target["properties"] |= {TARGET: {"type": "string"}, **parts}
        named: Schema = {"properties": {TARGET: {"const": target}}}
        branches.append({"if": named | ({"required": [TARGET]} if len(found) > 1 else {}), "then": of_target})
    return {"type": ["object", "null"], "allOf": branches}


def schemas(conf: Path) -> Iterator[tuple[str, Schema]]:
    """Give the schema of each group, and of config.yaml, by name."""
    for group in (*ONE, *SEVERAL):
        files = [yaml.safe_load(path.read_text()) for path in sorted((conf / group).glob("*.yaml"))]
        if group in ONE:
            yield group, node_schema(files, group)
        else:
            nodes = [node for file in files for name, node in file.items() if is_node(node)]
            defaults = {"properties": {"defaults": {"type": "array"}}}
            yield group, {**defaults, "additionalProperties": node_schema(nodes, f"{group}.x")}
    top = properties(Config)
    top["properties"]["hydra"] = {"type": "object"}
    yield "config", top


def main() -> None:
    """Write them into the folder's conf/schemas/."""
    for name, schema in schemas(Path("conf")):
        path = Path("conf", "schemas", f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(schema, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
