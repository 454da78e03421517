"""Small records of finished runs, kept in the repository: what was run, and what came of it."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from re import fullmatch
from typing import Any

from fmnist_lit.config import SEED, Rule, integer, leaves, list_of, optional
from fmnist_lit.errors import UserError
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.run_files import FIGURE, PART, TEXT, checked, read_json, read_overrides
from fmnist_lit.report.runs import INCIDENTAL
from fmnist_lit.sweeps import key_of

PARTS = ("train", "val", "test")
# Overrides that name a run, a place or a machine; any other one changes the experiment.
PLACES = (
    "experiment",
    "sweep",
    "name",
    "seed",
    "threads",
    "trainer",
    "logger",
    "output_dir",
    "data.images.source",
    "data.images.folder",
)
FIGURES = tuple(f"{part}_{name}" for part in PARTS for name in ("loss", "accuracy"))
COLUMNS = (*FIGURES, "loss_sum", "learning_rate")
# What RESULTS.md needs of a record. Overrides go into file names and headers of configs: a line each.
RECORD = {
    "experiment": Rule(lambda v: bool(fullmatch(r"[\w-]+(/[\w-]+)*", str(v))), "the name of an experiment"),
    "seed": SEED,
    "overrides": list_of(Rule(lambda v: TEXT.holds(v) and v.isprintable(), "text of one line")),
    "train": optional(PART),
    "val": optional(PART),
    "test": PART,
    "epochs": integer(0),
    "seconds": FIGURE,
}


def make_record(path: Path) -> dict[str, Any]:
    """Return what is kept of a run.

    Raises:
        UserError: the run did not finish, is no experiment, or cannot be repeated from a commit.
    """
    run = RunDirectory(path)
    metrics = run.metrics()
    experiment = metrics.get("choices", {}).get("experiment", "none")
    if experiment == "none":
        raise UserError(f"{path} is no experiment: it was not started with experiment=...")
    if not fullmatch("[0-9a-f]{40}", metrics["commit"] or ""):
        raise UserError(f"{path} was made by code that is in no commit ({metrics['commit']}).")
    kept = ("epochs", "seconds", "images_per_second", "parameters", "device", "versions", "commit")
    missing = [key for key in kept if key not in metrics]
    if missing:
        raise UserError(f"{path / 'metrics.json'} is damaged: it has no {', '.join(missing)}.")
    record: dict[str, Any] = {
        "experiment": experiment,
        "seed": metrics["seed"],
        "overrides": other_overrides(path),
        **{part: metrics[part] for part in PARTS},
        **{key: metrics[key] for key in kept},
        **{key: metrics[key] for key in ("test_mirrored", "training_tflop") if key in metrics},
        "config": {key: value for key, value in leaves(run.config) if is_kept(key)},
        "history": history_columns(run.history()),
    }
    checked(path, record, RECORD)
    return record


def is_kept(key: str) -> bool:
    """Whether a config key belongs into a record: not where files lay, and no seed, which stands apart."""
    return key not in (*INCIDENTAL, "seed") and not key.startswith(("logger.", "model.patch."))


def other_overrides(path: Path) -> list[str]:
    """Return the overrides that changed the experiment."""
    return [item for item in read_overrides(path) if key_of(item) not in PLACES]


def history_columns(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Return the figures of the epochs, a list for each, to five digits; None for one that is not finite."""
    return {
        name: [float(f"{row[name]:.5g}") if isfinite(row[name]) else None for row in rows]
        for name in COLUMNS
        if name in rows[0]
    }


def file_name(record: Mapping[str, Any]) -> str:
    """Return the file name of a record: experiment, seed, and whether the experiment was changed."""
    changed = "".join(f"-{item}" for item in record["overrides"])
    return f"{record['experiment']}-seed{record['seed']}{changed}.json".replace("/", "-")


def read_records(folder: Path, made: Mapping[Path, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Read all records of a folder, by experiment and seed.

    Args:
        made: records that are not written yet, by their paths; they take the place of older ones.

    Raises:
        UserError: a file is no record.
    """
    records = []
    made = made or {}
    for path in sorted({*folder.glob("*.json"), *made}):
        try:
            record = made[path] if path in made else read_json(path)
            checked(path, record, RECORD)
        except UserError as error:
            raise UserError(f"{path} is no record of a run: {error}") from error
        records.append(record)
    return sorted(records, key=lambda record: (record["experiment"], record["seed"]))
