"""The files of a run that anyone may have made: read as data, within limits, and checked before use."""

import csv
import io
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from yaml import YAMLError

from fmnist_lit.config import SEED, Rule, integer, list_of, number, optional, plain_yaml
from fmnist_lit.errors import UserError, os_message, printable
from fmnist_lit.sweeps import is_going_on

LARGEST = 2**24  # bytes of a text file: 100,000 epochs
HIGHEST = 1e30  # of any figure; what is larger cannot be averaged
ACCURACY, FIGURE = number(0, 1, high_included=True), number(0, HIGHEST)
TEXT = Rule(lambda v: isinstance(v, str) and len(v) <= 10_000, "text")
NAMES = Rule(
    lambda v: isinstance(v, dict) and len(v) < 100 and all(map(TEXT.holds, v.values())), "texts by name"
)
PART = Rule(
    lambda v: isinstance(v, dict) and ACCURACY.holds(v.get("accuracy")) and FIGURE.holds(v.get("loss")),
    "an accuracy from 0 to 1 and a loss, 0 or more",
)
# What readers take from metrics.json, and what it must be.
METRICS = {
    "train": optional(PART),
    "val": optional(PART),
    "test": PART,
    "epochs": integer(0),
    "seconds": FIGURE,
    "parameters": integer(0, most=10**12),
    "seed": SEED,
    "commit": optional(TEXT),
    "device": TEXT,
    "command": TEXT,
}
SOMETIMES = {
    "choices": NAMES,
    "versions": NAMES,
    "images_per_second": FIGURE,
    "test_mirrored": PART,
    "training_tflop": FIGURE,
}
EPOCH = ("epoch", "learning_rate", "train_loss", "train_accuracy")  # columns of every history.csv


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


def checked(
    path: Path, content: Any, needed: Mapping[str, Rule], known: Mapping[str, Rule] | None = None
) -> dict[str, Any]:
    """Return the keys of a file's content that have a rule.

    Raises:
        UserError: a needed one is missing, or one is not what its rule says.
    """
    missing = [key for key in needed if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} is damaged: it has no {', '.join(missing)}.")
    rules = {key: rule for key, rule in {**needed, **(known or {})}.items() if key in content}
    for key, rule in rules.items():
        if not rule.holds(content[key]):
            raise UserError(f"{path} is damaged: {key} must be {rule.words}.")
    return {key: content[key] for key in rules}


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the final figures of a run.

    Raises:
        UserError: the run did not finish, or the file is damaged.
    """
    path = run / "metrics.json"
    if not path.exists():
        raise UserError(f"{run} has no metrics.json: the run did not finish.")
    return checked(path, read_json(path), METRICS, SOMETIMES)


def read_history(run: Path) -> list[dict[str, float]]:
    """Read the figures of every epoch; those of a run that diverged may be infinite or NaN.

    Raises:
        UserError: there are none, or they are damaged.
    """
    path = run / "history.csv"
    if not path.exists():
        raise UserError(f"{run} has no history.csv: no epoch was finished.")
    try:
        table = csv.DictReader(io.StringIO(read_file(path).decode("utf-8-sig"), newline=""))
        rows = [{name: figure(name, text) for name, text in row.items()} for row in table]
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged: it holds more or other than figures.") from error
    if not rows:
        raise UserError(f"{path} is empty: no epoch was finished.")
    missing = [name for name in EPOCH if name not in rows[0]]
    if missing:
        raise UserError(f"{path} is damaged: it has no {', '.join(missing)}.")
    return rows


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
    if not list_of(TEXT).holds(overrides):
        raise UserError(f"{path} is damaged: it must be {list_of(TEXT).words}.")
    return list(overrides)


def figure(name: str, text: str) -> float:
    """Return one figure of an epoch.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    limit = 1 if name.endswith("accuracy") else HIGHEST
    if isfinite(value) and not 0 <= value <= limit:
        raise ValueError
    if name == "epoch" and not value.is_integer():
        raise ValueError
    return value


def why_unfinished(run: Path) -> str | None:
    """Return None for a finished run, else its state: "running", "unfinished", or "failed" and the reason."""
    if (run / "metrics.json").exists():
        return None
    if is_going_on(run):
        return "running"
    path = run / "failure.json"
    if not path.exists():
        return "unfinished"
    try:
        reason = checked(path, read_json(path), {"reason": TEXT})["reason"]
    except UserError:
        return "failed; failure.json is damaged"
    return f"failed: {printable(' '.join(reason.split()))}"
