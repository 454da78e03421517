"""The schemas by which an editor completes and checks conf/."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fmnist_lit.schemas import ONE, SEVERAL, schemas
from tests.fixtures import ROOT

CONF = ROOT / "conf"
COMMITTED = {path.stem: json.loads(path.read_text()) for path in (CONF / "schemas").glob("*.json")}
FILES = [path for group in (*ONE, *SEVERAL) for path in sorted((CONF / group).glob("*.yaml"))]
TYPES = {
    "array": list,
    "boolean": bool,
    "integer": int,
    "null": type(None),
    "number": (int, float),
    "object": dict,
    "string": str,
}


def faults(value: Any, schema: Any, where: str = "") -> list[str]:
    """Hold a value against the words of JSON Schema that ours use."""
    if schema is False:
        return [f"{where}: no such key"]
    if not isinstance(schema, dict):
        return []
    if "if" in schema and not faults(value, schema["if"]):
        return faults(value, schema["then"], where)
    types = schema.get("type", list(TYPES))
    kinds = [types] if isinstance(types, str) else types
    found = [] if any(is_a(value, kind) for kind in kinds) else [f"{where}: no {types}"]
    found += [where] if "const" in schema and value != schema["const"] else []
    found += [where] if "enum" in schema and value not in schema["enum"] else []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(where)
    if isinstance(value, int | float):
        low, above = schema.get("minimum", value), schema.get("exclusiveMinimum", value - 1)
        high, below = schema.get("maximum", value), schema.get("exclusiveMaximum", value + 1)
        found += [] if low <= value <= high and above < value < below else [f"{where}={value}"]
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        found += [where for key in schema.get("required", []) if key not in value]
        for key, inner in value.items():
            found += faults(inner, known.get(key, others), f"{where}.{key}")
    if "anyOf" in schema and all(faults(value, one, where) for one in schema["anyOf"]):
        found.append(f"{where}={value}")
    return found + [fault for one in schema.get("allOf", []) for fault in faults(value, one, where)]


def is_a(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def is_within(committed: Any, given: Any) -> bool:
    """Whether a schema says what is committed; of further classes it may know more."""
    if isinstance(committed, dict) and isinstance(given, dict):
        return committed.keys() == given.keys() and all(
            all(one in given[key] for one in value) if key == "allOf" else is_within(value, given[key])
            for key, value in committed.items()
        )
    return bool(committed == given)


def test_the_committed_schemas_are_what_the_code_gives() -> None:
    given = dict(schemas(CONF))
    assert given.keys() == COMMITTED.keys()
    for group, schema in COMMITTED.items():
        assert is_within(schema, given[group]), f"{group}: make schemas"


def test_a_class_more_is_no_fault_and_a_change_is_one() -> None:
    one, more = {"if": 1}, {"if": 2}
    assert is_within({"allOf": [one]}, {"allOf": [one, more]})
    assert not is_within({"allOf": [one, more]}, {"allOf": [one]})
    assert not is_within({"a": {"type": "x"}}, {"a": {"type": "y"}})
    assert not is_within({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_file_names_its_schema_and_keeps_to_it(path: Path) -> None:
    text = path.read_text()
    name = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert name, "its first line: # yaml-language-server: $schema=../schemas/GROUP.json"
    assert (path.parent / name[1]).resolve() == CONF / "schemas" / f"{path.parent.name}.json"
    assert faults(yaml.safe_load(text), COMMITTED[path.parent.name]) == []


def test_the_top_level_keeps_to_its_schema() -> None:
    text = (CONF / "config.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=schemas/config.json\n")
    assert faults(yaml.safe_load(text), COMMITTED["config"]) == []


@pytest.mark.parametrize(
    ("group", "text", "where"),
    [
        ("model", "_target_: fmnist_lit.models.cnn.CNNC\ndropout: 1.5", ".dropout"),
        ("model", "_target_: fmnist_lit.models.cnn.CNNC\ndropuot: 0.5", ".dropuot"),
        ("model", "_target_: fmnist_lit.models.cnn.CNNB\nhead: sigmoid", ".head"),
        ("data", "images: {_target_: fmnist_lit.data.idx.idx, folder: a, class: [a]}", ".images.class"),
        ("data", "val_fraction: 1", ".val_fraction"),
        ("optim", "_target_: torch.optim.SGD\nmomentum: 0.9\nlearning_rate: 0.1", ".learning_rate"),
        ("schedule", "_target_: fmnist_lit.schedules.plateau\npatience: often", ".patience"),
        ("augment", "noise: {_target_: fmnist_lit.data.augment.GaussianNoise, std: -1}", ".noise.std"),
        ("callbacks", "best: {_target_: fmnist_lit.callbacks.BestCheckpoint, monitr: loss}", ".best.monitr"),
        ("logger", "csv: {_target_: lightning.pytorch.loggers.CSVLogger, flush: 1}", ".csv.flush"),
        ("config", "seed: -1", ".seed"),
        ("config", "sed: 1", ".sed"),
    ],
)
def test_a_mistake_is_seen(group: str, text: str, where: str) -> None:
    found = faults(yaml.safe_load(text), COMMITTED[group])
    assert any(fault.startswith(where) for fault in found), found


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("model", "_target_: mine.Tiny\nchannels: 8"),
        ("optim", "_target_: torch.optim.SGD\nlr: ${lr}"),
        ("callbacks", "mine: {_target_: mine.Counter, file: a}\nbest: null"),
    ],
)
def test_what_is_of_ones_own_is_free(group: str, text: str) -> None:
    assert faults(yaml.safe_load(text), COMMITTED[group]) == []
