"""Tables of runs: what they differ in, and a row for each configuration, over its seeds."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pandas import DataFrame

from fmnist_lit.config import INCIDENTAL, leaves
from fmnist_lit.errors import UsageError, UserError, choices, printable
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.readers.spread import spread
from fmnist_lit.readers.text import no_formula, render
from fmnist_lit.run_files import read_history, read_metrics, run_directories, why_unfinished

SEED, FOLD = "seed", "data.fold"  # what repeats a run: else it is the same
INCIDENTAL_GROUPS = ("logger", "trainer", "debug")
SPLITS = ("train", "val", "test")
OWN = ("test_accuracy", "test_loss", "test_std", "test_95_low", "test_95_high")
HANDFUL = 5  # columns of a readable table that say what differs; CSV and JSON have all


class Run(NamedTuple):
    """One run: the option chosen of each group, the value of each dotted key, and its numbers."""

    options: dict[str, str]
    values: dict[str, str]
    numbers: dict[str, float]


class Runs(NamedTuple):
    """Some runs, a row each in both tables.

    Args:
        keys: as text, the option chosen of each config group, then the value of every dotted key; "-": none.
        groups: the columns of ``keys`` that are config groups.
        numbers: of finished runs: those of metrics.json ("seconds", "test_accuracy").
    """

    keys: DataFrame
    groups: list[str]
    numbers: DataFrame


class Results(NamedTuple):
    """All runs of a folder: finished ones as rows, the others with the reason why they have no metrics.

    Trials of a search were made to be chosen among: where there are other runs, they stand apart.
    """

    keys: list[str]  # columns that say what tells a row from the others
    measured: list[str]  # columns of further metrics, a user's own
    rows: list[dict[str, Any]]
    without: list[tuple[Path, str]]
    searches: Counter[Path]  # trials by folder


def read_run(path: Path, last: bool = False) -> Run:
    """Read what tells a run from others, and of a finished one the numbers.

    Args:
        last: those of the last epoch too.

    Raises:
        UserError: the folder holds no run.
    """
    config = RunDirectory(path, trust=None).config
    metrics = read_metrics(path) if why_unfinished(path) is None else {}
    values = {
        key: str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)
        for key, value in leaves(config)
        if key not in INCIDENTAL and not key.startswith(("logger.", "model.patch."))
    }
    # Before its end a run is known by the classes that it builds.
    targets = {key.removesuffix("._target_"): values[key] for key in values if key.endswith("._target_")}
    chosen = metrics.get("choices", {group: name for group, name in targets.items() if "." not in group})
    options = {group: name for group, name in chosen.items() if group not in INCIDENTAL_GROUPS}
    numbers = {k.replace(".", "_", 1): v for k, v in leaves(metrics) if isinstance(v, int | float)}
    return Run(options, values, numbers | (last_epoch(path) if last else {}))


def last_epoch(run: Path) -> dict[str, float]:
    """Return the metrics of a run's last epoch ("last_val_accuracy"), and the rate that it ended with.

    Raises:
        UserError: its history cannot be read.
    """
    last = read_history(run).iloc[-1]
    metrics = {f"last_{name}": float(value) for name, value in last.items() if str(name).startswith(SPLITS)}
    return metrics | {"final_rate": float(last["learning_rate"])}


def as_runs(read: Sequence[Run]) -> Runs:
    """Put what was read of runs into tables."""
    groups = list(dict.fromkeys(group for run in read for group in run.options))
    names = list(dict.fromkeys([*groups, *(key for run in read for key in run.values)]))
    keys = DataFrame([run.values | run.options for run in read], columns=names, dtype=object)
    return Runs(keys.fillna("-"), groups, DataFrame([run.numbers for run in read]))


def varying_keys(runs: Runs) -> list[str]:
    """Return the groups and dotted keys in which runs differ.

    What follows from a difference already named is left out: the keys of an option where two runs chose
    different options, everything where they are different experiments.
    """

    def differ(name: str) -> bool:
        named = dict.fromkeys(("experiment", name.partition(".")[0]))
        alike = [group for group in named if group in runs.groups and group != name]
        return bool((runs.keys.groupby(alike)[name].nunique() > 1).any()) if alike else True

    counts = runs.keys.nunique()
    varied = [name for name in runs.keys if counts[name] > 1 and differ(name)]
    return sorted(varied, key=lambda name: name != "experiment")


def varying(runs: Runs, name: str) -> str:
    """Say how a group or key differs: "optim.lr=0.01..0.1" for numbers, else its values if they are few."""
    values = sorted(set(runs.keys[name]))
    try:
        values = sorted(values, key=float)
        return f"{name}={values[0]}..{values[-1]}"
    except ValueError:
        return f"{name}={','.join(values)}" if len(values) <= 3 else name


def labels(paths: Sequence[Path]) -> list[str]:
    """Name each run by what tells it from the others, by its folder where nothing does."""
    runs = as_runs([read_run(path) for path in paths])
    differing = runs.keys[varying_keys(runs)].to_dict("records")
    names = [" ".join(f"{key}={value}" for key, value in row.items()) for row in differing]
    return [
        name if names.count(name) == 1 and name else f"{name} ({folder})".lstrip()
        for name, folder in zip(names, unique_names(paths), strict=True)
    ]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by as few of their last parts as tell them apart."""
    whole = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def collect(folder: Path, group_by: Sequence[str] = (), columns: Sequence[str] = ()) -> Results:
    """Read all runs at or below a folder.

    Args:
        group_by: config groups ("model") or dotted keys ("optim.lr") that make a row; by default all in
            which runs differ, but for the seed.
        columns: further numbers to show: metrics of a split ("train_accuracy"), those of the last epoch
            ("last_val_loss"), "epochs", "final_rate"; by default what a user's own metrics say of the test.

    Raises:
        UserError: there is no run.
        UsageError: no run has such a key or column.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    found = run_directories(folder)
    if not found:
        raise UserError(f"{folder} holds no run.")
    searches = Counter(path.parent for path in found if (path.parent / "study.lock").exists())
    if searches.total() == len(found):  # they alone were asked for
        searches.clear()
    read, without = [], []
    for path in (path for path in found if path.parent not in searches):
        reason = why_unfinished(path)
        try:
            if reason is None:
                read.append(read_run(path, last=bool(columns)))
        except UserError as error:
            reason = f"damaged: {error}"
        if reason is not None:
            without.append((path, reason))
    if not read:
        return Results([], [], [], without, searches)
    runs = as_runs(read)
    keys = list(dict.fromkeys(group_by)) or [key for key in varying_keys(runs) if key not in (SEED, FOLD)]
    for key in keys:
        if key not in runs.keys:
            raise UsageError(f"--group-by {key}: no run has such a group or key. {choices(key, runs.keys)}")
    for name in columns:
        if name not in runs.numbers:
            raise UsageError(f"--columns {name}: no run has such a number. {choices(name, runs.numbers)}")
    of_test = [name for name in runs.numbers if name.startswith("test_") and name not in OWN]
    further = [name for name in of_test if not name.startswith("test_flipped_")]
    measured = list(dict.fromkeys(columns)) or further
    groups = [of.index for _, of in runs.keys.groupby(keys, sort=False)] if keys else [runs.keys.index]
    alike = [Runs(runs.keys.loc[index], runs.groups, runs.numbers.loc[index]) for index in groups]
    rows = sorted((make_row(keys, measured, of) for of in alike), key=rank)
    return Results(keys, measured, rows, without, searches)


def rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Order rows by validation accuracy, best first; those without one by test accuracy, behind them."""
    return -(row["val_accuracy"] or 0.0), -row["test_accuracy"]


def make_row(keys: Sequence[str], measured: Sequence[str], runs: Runs) -> dict[str, Any]:
    """Return the metrics of runs of the same keys; None where there is none. Accuracies are fractions.

    Runs of the same seed are one value, their mean: seeds repeat, or the folds of one seed. Runs that differ
    in more are a mixture: they have a mean, but no spread.
    """
    mixes = [varying(runs, key) for key in varying_keys(runs) if key not in (SEED, FOLD, *keys)]
    seeds = runs.numbers.groupby(SEED).mean()
    folds = runs.keys[FOLD].nunique() if FOLD in runs.keys else 1
    over_folds = folds > 1 and len(seeds) == 1
    if over_folds:
        seeds = runs.numbers.groupby(runs.keys[FOLD]).mean()
    test = spread(seeds["test_accuracy"].tolist(), limits=(0, 1))
    parameters = set(runs.numbers["parameters"])
    means = {name: seeds[name].mean() for name in ("val_accuracy", *measured) if name in seeds}
    low, high = (None if mixes or over_folds else test.interval) or (None, None)
    return {
        **runs.keys.iloc[0][list(keys)].to_dict(),
        "mixes": mixes,
        "seeds": 1 if over_folds else len(seeds),
        "folds": folds,
        "runs": len(runs.keys),
        "test_accuracy": test.mean,
        "test_std": None if mixes else test.std,
        "test_95_low": low,
        "test_95_high": high,
        "val_accuracy": None,
        **{name: float(mean) if math.isfinite(mean) else None for name, mean in means.items()},
        "seconds": float(runs.numbers["seconds"].mean()),
        "parameters": int(parameters.pop()) if len(parameters) == 1 else None,
    }


def joined(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with text for what they mix."""
    return [{**row, "mixes": ", ".join(row["mixes"])} for row in rows]


def as_json(results: Results) -> str:
    """Return everything as JSON."""
    content = {
        "finished": joined(results.rows),
        "without_result": [{"run": str(path), "reason": reason} for path, reason in results.without],
        "searches": [{"folder": str(path), "trials": count} for path, count in results.searches.items()],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """Return the finished rows as CSV; no text in it is a formula."""
    if not results.rows:
        return ""
    table = DataFrame(joined(results.rows), dtype=object).map(no_formula).rename(columns=no_formula)
    return str(table.to_csv(index=False))


def as_markdown(results: Results) -> str:
    """Return tables to read: accuracies in percent, a handful of differences; what has no row apart."""
    few_keys = len(results.keys) <= HANDFUL + 1
    shown, folded = (results.keys, []) if few_keys else (results.keys[:HANDFUL], results.keys[HANDFUL:])
    return render(
        "results.md",
        results=results,
        shown=shown,
        folded=folded,
        also=lambda row: few([f"{key}={row[key]}" for key in folded if row[key] != "-"]),
        few=few,
        titled=titled,
        splits=SPLITS,
    )


def titled(name: str) -> str:
    """Return a number's name as a heading: the split, or the last epoch's, apart from the metric."""
    return name.replace("_", " ", 2 if name.startswith("last_") else 1)


def few(items: Sequence[str]) -> str:
    """Join a handful of texts, and say how many are left out."""
    kept = [printable(item, most=60) for item in items[:HANDFUL]]
    return ", ".join(kept) + (f" and {len(items) - HANDFUL} more" if len(items) > HANDFUL else "")
