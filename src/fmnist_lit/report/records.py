"""Small records of finished runs, kept in the repository: what was run, and what came of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fmnist_lit.config import leaves
from fmnist_lit.errors import UserError
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.runs import INCIDENTAL

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
    if not metrics["commit"] or metrics["commit"].endswith("-dirty"):
        raise UserError(f"{path} was made by code that is in no commit ({metrics['commit']}).")
    kept = ("epochs", "seconds", "images_per_second", "parameters", "device", "versions", "commit")
    return {
        "experiment": experiment,
        "seed": metrics["seed"],
        "overrides": other_overrides(path),
        **{part: metrics[part] for part in PARTS},
        **{key: metrics[key] for key in kept},
        **{key: metrics[key] for key in ("test_mirrored", "training_tflop") if key in metrics},
        "config": {key: value for key, value in leaves(run.config) if is_kept(key)},
        "history": history_columns(run.history()),
    }


def is_kept(key: str) -> bool:
    """Whether a config key belongs into a record: not where files lay, and no seed, which stands apart."""
    return key not in (*INCIDENTAL, "seed") and not key.startswith(("logger.", "model.patch."))


def other_overrides(path: Path) -> list[str]:
    """Return the overrides that changed the experiment."""
    file = path / ".hydra" / "overrides.yaml"
    if not file.is_file():
        raise UserError(f"{path} has no .hydra/overrides.yaml: it is not known what was changed.")
    overrides = [str(item) for item in OmegaConf.load(file)]
    return [item for item in overrides if item.partition("=")[0] not in PLACES]


def history_columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the figures of the epochs, a list for each, to five digits."""
    return {name: [float(f"{row[name]:.5g}") for row in rows] for name in COLUMNS if name in rows[0]}


def file_name(record: Mapping[str, Any]) -> str:
    """Return the file name of a record: experiment, seed, and whether the experiment was changed."""
    changed = "".join(f"-{item}" for item in record["overrides"])
    return f"{record['experiment']}-seed{record['seed']}{changed}.json".replace("/", "-")


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Read all records of a folder, by experiment and seed.

    Raises:
        UserError: a file is no record.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            record["experiment"], record["seed"], record["overrides"], record["test"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of a run: {error!r}") from error
        records.append(record)
    return sorted(records, key=lambda record: (record["experiment"], record["seed"]))
