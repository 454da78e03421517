"""The files of a run that anyone may have made: read as data, within limits, and checked before use."""

import csv
import io
import json
import shlex
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml import YAMLError

from fmnist_lit.config import plain_yaml
from fmnist_lit.constraints import Natural, Probability, Seed
from fmnist_lit.errors import UserError, os_message, printable
from fmnist_lit.files import LOCK, is_locked, write_whole

if TYPE_CHECKING:
    from pandas import DataFrame

LARGEST = 2**24  # bytes of a text file: 100,000 epochs
HIGHEST = 1e30  # of any number; what is larger cannot be averaged
Number = Annotated[float, Field(ge=0, le=HIGHEST)]
Line = Annotated[str, Field(max_length=10_000)]
Names = Annotated[dict[str, Line], Field(max_length=100)]
FACTS = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
OLD_METRICS = {"test_mirrored": "test_flipped"}  # names of earlier versions
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy")  # columns of every history.csv


class Split(BaseModel):
    """The final metrics of a split, those of a user's own among them."""

    model_config = FACTS | ConfigDict(extra="allow")

    accuracy: Probability
    loss: Number
    __pydantic_extra__: dict[str, Annotated[float, Field(ge=-HIGHEST, le=HIGHEST)]]


class Metrics(BaseModel):
    """What is read of metrics.json."""

    model_config = FACTS

    train: Split | None
    val: Split | None
    test: Split
    epochs: Natural
    seconds: Number
    parameters: Annotated[int, Field(ge=0, le=10**12)]
    seed: Seed
    commit: Line | None
    date: Line = ""
    device: Line
    command: Line
    choices: Names = {}
    versions: Names = {}
    images_per_second: Number = 0.0
    test_flipped: Split | None = None
    training_tflop: Number = 0.0
    classes: Annotated[list[Line], Field(min_length=1, max_length=1000)] = []
    statistics: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2)] = []


def run_of(path: Path) -> Path:
    """Return the run directory that a path in it, or its name alone, stands for; else the path."""
    places = [*path.parents, Path("outputs", "runs", path.name)]
    return next((folder for folder in places if (folder / "config.yaml").is_file()), path)


def run_directories(folder: Path) -> list[Path]:
    """Return the directories at or below a folder that a run has written into, sorted."""
    signs = ("config.yaml", "failure.json", ".hydra")
    found = {path.parent for sign in signs for path in folder.rglob(sign)}
    return sorted(path for path in found if path.name != ".hydra")


def read_file(path: Path, largest: int = LARGEST) -> bytes:
    """Read a regular file, through links too; nothing that waits, has no end or is too large.

    Raises:
        UserError: it is something else, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file.")
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise UserError(os_message(error, where=path)) from error
    if len(content) > largest:
        raise UserError(f"{path} is larger than {largest:,} bytes.")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file of plain numbers.

    Raises:
        UserError: it cannot be read, or is no JSON.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(read_file(path), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def read_facts(path: Path, content: Any, model: type[BaseModel]) -> dict[str, Any]:
    """Return the keys of a file's content that a model knows, under today's names.

    Raises:
        UserError: a needed one is missing, or one is not what the model says.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is no mapping.")
    try:
        known = model.model_validate({OLD_METRICS.get(key, key): value for key, value in content.items()})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        wrong = f"it has no {where}" if fault["type"] == "missing" else f"{where}: {fault['msg']}"
        raise UserError(f"{path} is damaged: {wrong}.") from error
    return known.model_dump(exclude_unset=True)


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the final metrics of a run.

    Raises:
        UserError: the run did not finish, or the file is damaged.
    """
    path = run / "metrics.json"
    if not path.exists():
        raise UserError(f"{run} has no metrics.json: {why_unfinished(run)}.")
    return read_facts(path, read_json(path), Metrics)


def read_history(run: Path) -> "DataFrame":
    """Read the metrics of every epoch; those of a run that diverged may be infinite or NaN.

    Raises:
        UserError: there are none, or they are damaged.
    """
    from pandas import DataFrame  # half a second, which only readers wait

    path = run / "history.csv"
    if not path.exists():
        raise UserError(f"{run} has no history.csv: no epoch was finished.")
    try:
        table = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""))
        rows = [{name: number(name, text) for name, text in row.items()} for row in table]
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: it holds more or other than numbers.") from error
    if not rows:
        raise UserError(f"{path} is empty: no epoch was finished.")
    missing = [name for name in EPOCH if name not in rows[0]]
    if missing:
        raise UserError(f"{path} is damaged: it has no {', '.join(missing)}.")
    return DataFrame(rows)


def number(name: str, text: str) -> float:
    """Return one number of an epoch.

    Raises:
        ValueError: it is none, or none that a column of that name may hold.
    """
    value = float(text)
    own = name not in EPOCH and not name.endswith(("loss", "accuracy"))  # a user's metric may be negative
    low, high = -HIGHEST if own else 0, 1 if name.endswith("accuracy") else HIGHEST
    if isfinite(value) and not low <= value <= high:
        raise ValueError
    if name == "epoch" and not value.is_integer():
        raise ValueError
    return value


def read_overrides(run: Path) -> list[str]:
    """Read the command line's overrides of a run, as text.

    Raises:
        UserError: they are not known, or damaged.
    """
    path = run / ".hydra" / "overrides.yaml"
    if not path.is_file():
        raise UserError(f"{run} has no .hydra/overrides.yaml: it is not known what was changed.")
    try:
        overrides = plain_yaml(path)
    except (YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged.") from error
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        raise UserError(f"{path} is damaged: it must be a list of texts.")
    return overrides


def keep_overrides(directory: Path, command: str) -> None:
    """Write a run's overrides where Hydra's users look for them."""
    file = directory / ".hydra" / "overrides.yaml"
    file.parent.mkdir(exist_ok=True)
    words = shlex.split(command)[2:]
    while words[:1] == ["--config-dir"]:
        words = words[2:]
    write_whole(file, yaml.safe_dump(words, allow_unicode=True).encode())


def why_unfinished(run: Path) -> str | None:
    """Return None for a finished run, else its state: "running", "unfinished", or "failed" and the reason."""
    if (run / "metrics.json").exists():
        return None
    if is_locked(run / LOCK):
        return "running"
    path = run / "failure.json"
    if not path.exists():
        return "unfinished"
    try:
        return f"failed: {printable(' '.join(read_json(path)['reason'].split()))}"
    except (UserError, LookupError, TypeError, AttributeError):
        return "failed: failure.json is damaged"
