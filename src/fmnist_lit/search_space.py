"""What scripts/tune.py may vary: a YAML file read, checked, and asked for a value of each key."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from yaml import YAMLError

from fmnist_lit.build import arguments_model, checked
from fmnist_lit.config import CONF
from fmnist_lit.errors import UsageError, choices

RULE = (
    "{low, high} are numbers, with log or step if you like; low is to be below high; with log above 0, and "
    "without step; or {choices: [...]}."
)


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
        known = [str(file.relative_to(CONF.parent)) for file in (CONF / "search").glob("*.yaml")]
        raise UsageError(f"{path}: no such file. {choices(str(path), known)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise UsageError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content.keys() <= set(Search._fields):
        raise UsageError(f"{path}: its keys are overrides, start and space.")
    overrides, start, space = (content.get(part) for part in Search._fields)
    search = Search([*(overrides or ()), *further], start or {}, space or {})
    if not isinstance(search.start, dict) or not isinstance(search.space, dict) or not search.space:
        raise UsageError(f"{path}: it has no space to search; start and space are keys and what they may be.")
    for override in search.overrides:
        check_override(override)
    for key, kind in search.space.items():
        check_kind(str(key), kind)
    for key in search.start.keys() - search.space.keys():
        raise UsageError(
            f"{path}: start: {key} is not in the space. {choices(str(key), map(str, search.space))}"
        )
    return search


def check_override(override: Any) -> None:
    """Check what every trial has: it must fit into the experiment that comes out."""
    key, equals, _ = str(override).partition("=")
    if not equals or not key[:1].isalpha() or key in ("experiment", "sweep"):
        raise UsageError(f"{override}: a search takes key=value, of any key but experiment and sweep.")


def drawn(kind: Mapping[str, Any]) -> tuple[type, Callable[..., Any]]:
    """Return the distribution of a key's values, and the method of a trial that draws from it."""
    if isinstance(kind.get("choices"), list):
        return CategoricalDistribution, Trial.suggest_categorical
    if type(kind.get("low")) is int and type(kind.get("high")) is int:
        return IntDistribution, Trial.suggest_int
    return FloatDistribution, Trial.suggest_float


def check_kind(key: str, kind: Any) -> None:
    """Check what a key may be, as Optuna would."""
    try:
        given = kind if isinstance(kind, dict) else {}
        distribution, _ = drawn(given)
        distribution(**checked(arguments_model(distribution, ()), given, f"{key}."))
    except (UsageError, ValueError) as error:
        raise UsageError(f"space: {key}: {RULE} Here {error}") from error


def suggest(trial: Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Let a trial choose a value of each key."""
    values = {}
    for key, kind in space.items():
        _, draw = drawn(kind)
        values[key] = draw(trial, key, **kind)
    return values


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Return chosen values as the command line says them."""
    return [f"{key}={'null' if value is None else value}" for key, value in values.items()]
