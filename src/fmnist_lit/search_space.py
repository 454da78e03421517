"""What scripts/tune.py may vary: a YAML file read, checked, and asked for a value of each key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from omegaconf import OmegaConf
from yaml import YAMLError

from fmnist_lit.errors import UsageError, choices

CONF = Path(__file__).parents[2] / "conf"
PARTS = ("overrides", "start", "space")
RANGE, CHOICES = {"low", "high", "log", "step"}, {"choices"}


class Search(NamedTuple):
    """What is searched: overrides of every trial, the first trial's values, and what each key may be."""

    overrides: list[str]
    start: dict[str, Any]
    space: dict[str, dict[str, Any]]


def read_search(path: Path, further: Sequence[str] = ()) -> Search:
    """Read a search space.

    Args:
        further: overrides of the command line, after those of the file.

    Raises:
        UsageError: the file is missing or says what cannot be; the message names the key.
    """
    if not path.is_file():
        known = sorted(str(file.relative_to(CONF.parent)) for file in (CONF / "search").glob("*.yaml"))
        raise UsageError(f"{path}: no such file. {choices(str(path), known)}")
    overrides, start, space = (read_parts(path).get(part) for part in PARTS)
    overrides, start, space = [*(overrides or []), *further], start or {}, space or {}
    if not isinstance(start, dict) or not isinstance(space, dict) or not space:
        raise UsageError(f"{path}: it has no space to search; start and space are keys and what they may be.")
    for override in overrides:
        check_override(override)
    for key, kind in space.items():
        check_kind(str(key), kind)
    for key in start:
        if key not in space:
            raise UsageError(
                f"{path}: start: {key} is not in the space. {choices(str(key), map(str, space))}"
            )
    return Search(overrides, start, space)


def read_parts(path: Path) -> dict[Any, Any]:
    """Read the file's parts."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise UsageError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content.keys() <= set(PARTS):
        raise UsageError(f"{path}: its keys are overrides, start and space.")
    return content


def check_override(override: Any) -> None:
    """Check what every trial has: it must fit into the experiment that comes out."""
    key, equals, _ = str(override).partition("=")
    if not equals or not key[:1].isalpha() or key in ("experiment", "sweep"):
        raise UsageError(f"{override}: a search takes key=value, of any key but experiment and sweep.")


def check_kind(key: str, kind: Any) -> None:
    """Check what a key may be."""
    keys = set(kind) if isinstance(kind, dict) else set()
    if keys == CHOICES and isinstance(kind["choices"], list) and kind["choices"]:
        return
    if not {"low", "high"} <= keys <= RANGE:
        raise UsageError(f"space: {key}: {{low, high}}, with log or step if you like; or {{choices: [...]}}.")
    if not all(isinstance(value, int | float) for value in kind.values()):
        raise UsageError(f"space: {key}: low, high and step are numbers, log is true or false.")
    if not kind["low"] <= kind["high"] or (kind.get("log") and (kind["low"] <= 0 or "step" in kind)):
        raise UsageError(f"space: {key}: low is to be below high; with log above 0, and without step.")


def suggest(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Let a trial choose a value of each key."""
    values: dict[str, Any] = {}
    for key, kind in space.items():
        if "choices" in kind:
            values[key] = trial.suggest_categorical(key, kind["choices"])
        elif type(kind["low"]) is int and type(kind["high"]) is int:
            step = kind.get("step", 1)
            values[key] = trial.suggest_int(
                key, kind["low"], kind["high"], step=step, log=kind.get("log", False)
            )
        else:
            step = kind.get("step")
            values[key] = trial.suggest_float(
                key, kind["low"], kind["high"], step=step, log=kind.get("log", False)
            )
    return values


def override_of(key: str, value: Any) -> str:
    """Return a chosen value as the command line says it."""
    return f"{key}={'null' if value is None else value}"
