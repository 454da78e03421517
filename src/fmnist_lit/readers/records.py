"""Small records of finished runs, kept in the repository: what was run, and what came of it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from re import fullmatch
from statistics import median
from typing import Annotated, Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from pandas import DataFrame
from pydantic import AfterValidator, BaseModel, Field
from sklearn.metrics import confusion_matrix

from fmnist_lit import run_files
from fmnist_lit.config import CONF, INCIDENTAL, leaves
from fmnist_lit.constraints import Natural, Seed
from fmnist_lit.errors import UserError
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.old_configs import modern_override
from fmnist_lit.readers.predict import Predictor, seconds
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.sweeps import key_of
from fmnist_lit.weights import load_checkpoint

Records = list[dict[str, Any]]
SPLITS = ("train", "val", "test")
# Overrides that say which run, where and how fast; any other one changes the experiment.
INCIDENTAL_OVERRIDES = ("experiment", "sweep", "seed", "trainer", "logger", *INCIDENTAL)
# What a record keeps of metrics.json, and of history.csv.
KEPT = (
    *(*SPLITS, "epochs", "seconds", "images_per_second", "parameters", "device", "versions", "commit"),
    *("test_flipped", "training_tflop", "date"),
)
COLUMNS = (
    *(f"{split}_{name}" for split in SPLITS for name in ("loss", "accuracy")),
    *("loss_sum", "train_loss_sum", "learning_rate"),
)
# Columns that every table of records has; further ones are overrides and figures of epochs.
ALWAYS = (
    *("experiment", "seed", "changes", *SPLITS, "test_flipped", "last_val", "minutes", "gpu", "epochs"),
    *("parameters", "training_tflop", "commit", "date"),
)


def one_line(text: str) -> str:
    """Return a text of one line.

    Raises:
        ValueError: it is none.
    """
    if not text.isprintable():
        raise ValueError("it must be text of one line")
    return text


class Record(BaseModel):
    """What RESULTS.md needs of a record. Overrides go into headers of configs: a line each."""

    model_config = run_files.FACTS

    experiment: Annotated[str, Field(pattern=r"^[\w-]+(/[\w-]+)*$")]
    seed: Seed
    overrides: list[Annotated[str, AfterValidator(one_line)]]
    train: run_files.Split | None
    val: run_files.Split | None
    test: run_files.Split
    epochs: Natural
    seconds: run_files.Number


class NewRecord(Record):
    """What a record of today has besides."""

    images_per_second: run_files.Number
    versions: run_files.Names


def make_record(path: Path, data: Path | None = None, study: bool = False) -> dict[str, Any]:
    """Return what is kept of a run.

    Args:
        data: where its images are, if not where its config says.
        study: the run is one of many of a study, and need be no experiment.

    Raises:
        UserError: the run did not finish, is no experiment, or cannot be repeated from a commit.
    """
    run, metrics = RunDirectory(path, data), run_files.read_metrics(path)
    experiment = metrics.get("choices", {}).get("experiment", "none")
    if experiment == "none" and not study:
        raise UserError(f"{path} is no experiment: it was not started with experiment=... (or say --study)")
    if not fullmatch("[0-9a-f]{40}", metrics["commit"] or ""):
        raise UserError(f"{path} was made by code that is in no commit ({metrics['commit']}).")
    overrides = other_overrides(path)
    found, history = evaluate(run, "test", "best"), run_files.read_history(path)
    best, end = (load_checkpoint(path / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    last = found if best["global_step"] == end["global_step"] else evaluate(run, "test", "last")
    record = {
        "experiment": experiment,
        "seed": metrics["seed"],
        "overrides": overrides if study else changing(experiment, overrides),
        **{key: metrics[key] for key in KEPT if key in metrics},
        "chosen_epoch": best["epoch"] + 1,
        "test_last": {"accuracy": float((last.true == last.predicted).mean()), "loss": last.loss},
        # Of one image, on the machine that makes the record.
        "latency_ms": 1e3 * median(seconds(Predictor(run), 1, calls=200, warm_up=20)),
        "final_rate": float(history["learning_rate"].iloc[-1]),
        # The test images of each class (row) that were taken for each class (column).
        "confusion": confusion_matrix(found.true, found.predicted).tolist(),
        "config": {key: value for key, value in leaves(run.config) if is_kept(key)},
        "history": history_columns(history),
    }
    run_files.read_facts(path, record, NewRecord)
    return record


def is_kept(key: str) -> bool:
    """Whether a config key belongs into a record: not where files lay, and no seed, which stands apart."""
    apart = ("logger.", "model.patch.", "callbacks.resume.", "callbacks.progress.")
    return key not in (*INCIDENTAL, "seed") and not key.startswith(apart)


def other_overrides(path: Path) -> list[str]:
    """Return the overrides that changed the experiment."""
    return [item for item in run_files.read_overrides(path) if key_of(item) not in INCIDENTAL_OVERRIDES]


def changing(experiment: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides without those that say what the experiment is anyway."""
    kept = list(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"), suppress(HydraException):  # of another version
        for item in overrides:
            others = [other for other in kept if other != item]
            if compose("config", [f"experiment={experiment}", *others]) == compose(
                "config", [f"experiment={experiment}", *kept]
            ):
                kept = others
    return kept


def history_columns(history: DataFrame) -> dict[str, list[float | None]]:
    """Return the metrics of the epochs, a list for each, to five digits; None for one that is not finite."""
    return {
        name: [float(f"{value:.5g}") if math.isfinite(value) else None for value in history[name]]
        for name in COLUMNS
        if name in history
    }


def file_of(record: Mapping[str, Any], study: str | None) -> Path:
    """Return the file below ``results/`` whose line a record is: its study's, or its experiment's."""
    kind, name = ("studies", study) if study else ("experiments", record["experiment"])
    return Path(kind, f"{name}.jsonl")


def read_files(folder: Path, made: Mapping[Path, Records] | None = None) -> dict[Path, Records]:
    """Read all records below a folder, by file.

    Args:
        made: what is not written yet; it takes the place of what was there.

    Raises:
        UserError: a file is damaged.
    """
    new = {path: records for path, records in (made or {}).items() if path.is_relative_to(folder)}
    return {
        path: new[path] if path in new else read_lines(path)
        for path in sorted({*folder.rglob("*.jsonl"), *new})
    }


def read_records(folder: Path, made: Mapping[Path, Records] | None = None) -> Records:
    """Read the records of all experiments below a folder as ``read_files`` does, by experiment and seed."""
    records = chain.from_iterable(read_files(folder, made).values())
    return sorted(records, key=lambda record: (record["experiment"], record["seed"]))


def read_studies(folder: Path, made: Mapping[Path, Records] | None = None) -> dict[str, DataFrame]:
    """Read the records of each study as ``read_files`` does, each a table."""
    return {path.stem: study_rows(records) for path, records in read_files(folder, made).items()}


def as_record(path: Path, content: Any) -> dict[str, Any]:
    """Return what a file holds under today's names.

    Raises:
        UserError: it is no record.
    """
    try:
        run_files.read_facts(path, content, Record)
    except UserError as error:
        raise UserError(f"{path} is no record of a run: {error}") from error
    return {run_files.OLD_METRICS.get(key, key): value for key, value in content.items()}


def read_lines(path: Path) -> Records:
    """Read the records of a file, one a line.

    Raises:
        UserError: a line is no record.
    """
    lines = run_files.read_file(path).decode(errors="replace").splitlines() if path.exists() else []
    try:
        return [as_record(path, json.loads(line)) for line in lines]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def as_lines(records: Records) -> bytes:
    """Return the content of a file of records."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()


def with_runs(known: Records, made: Records) -> Records:
    """Return records with further ones, which replace those of the same experiment, overrides and seed."""
    records = {
        (record["experiment"], tuple(record["overrides"]), record["seed"]): record
        for record in (*known, *made)
    }
    return [records[key] for key in sorted(records)]


def study_rows(records: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return the runs of a study as a table: where one run overrides a key, each other states its value.

    So a run of an experiment can stand for the job of a sweep that would be the same run.
    """
    varied = dict.fromkeys(key_of(item) for record in records for item in record["overrides"])
    table = as_rows([record | {"overrides": stated(record, varied)} for record in map(dict, records)])
    table["changes"] = as_rows(records)["changes"]  # what each was started with
    return table


def stated(record: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return a record's overrides, and the values that its config has of further keys, as one writes them."""
    config, overrides = record.get("config", {}), list(record["overrides"])
    left = [key for key in keys if key in config and key not in map(key_of, overrides)]
    return overrides + [f"{key}={as_text(config[key])}" for key in left]


def as_rows(records: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return records as a table: a row a run, its overrides as text ("-": none) and its figures.

    Accuracies are in percent. "changes" are all overrides in one, "val@3" is of epoch 3, "last_val" of the
    last one, "chosen_val" of the tested one, "gap" is train less test accuracy, "class_0" the share of the
    first class's test images that are right; what a run does not have is NaN.
    """
    rows = [row_of(record) for record in records]
    names = dict.fromkeys([*ALWAYS, *(name for row in rows for name in row)])
    table = DataFrame(rows, columns=list(names))
    return table.fillna(dict.fromkeys(overridden(table), "-"))


def as_text(value: Any) -> str:
    """Return a config value as an override has it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def row_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overrides and figures of a run."""
    overrides = [modern_override(item) for item in record["overrides"]]
    parted = (item.partition("=") for item in overrides)
    row: dict[str, Any] = {key: value for key, _, value in parted}
    row |= {key: record[key] for key in ("experiment", "seed", "epochs")}
    row |= {
        key: record.get(key, math.nan) for key in ("parameters", "training_tflop", "final_rate", "latency_ms")
    }
    row |= {"changes": " ".join(overrides), "minutes": record["seconds"] / 60}
    kind, _, name = record.get("device", "").partition(": ")
    row |= {
        "gpu": name.partition(",")[0] if kind == "cuda" else "",
        "commit": record.get("commit", "-")[:7],
        "date": record.get("date", "-"),
    }  # early ones have no date
    for split in (*SPLITS, "test_flipped", "test_last"):
        if record.get(split):
            row[split] = 100 * record[split]["accuracy"]
            row[f"{split}_loss"] = record[split].get("loss", math.nan)
    for number, counts in enumerate(record.get("confusion", [])):
        row[f"class_{number}"] = 100 * counts[number] / sum(counts)
    for name, values in record.get("history", {}).items():
        short, scale = name.removesuffix("_accuracy"), 100 if name.endswith("_accuracy") else 1
        short = "train_loss_sum" if short == "loss_sum" else short  # its name in early records
        scaled = [math.nan if value is None else scale * value for value in values]
        row |= {f"{short}@{epoch}": value for epoch, value in enumerate(scaled, 1)}
        row[f"last_{short}"] = scaled[-1]
        row[f"chosen_{short}"] = scaled[record["chosen_epoch"] - 1] if "chosen_epoch" in record else math.nan
    return row | ({"gap": row["train"] - row["test"]} if "train" in row else {})


def overridden(table: DataFrame) -> list[str]:
    """Return the columns that say how runs were made."""
    numbers = table.select_dtypes("number")
    return [name for name in table if name not in numbers and name not in ALWAYS]
