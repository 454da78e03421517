"""One table over all finished runs of a folder: a row a configuration, over its seeds."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from scipy.stats import t as student

from fmnist_lit.errors import UsageError, UserError, choices
from fmnist_lit.report.runs import Run, distinguishing, read_run, require_runs, value_of, why_unfinished

SEED = "seed"


class Spread(NamedTuple):
    """Mean, standard deviation and 95% interval of the mean; the last two are None for one value."""

    mean: float
    std: float | None
    interval: tuple[float, float] | None


class Row(NamedTuple):
    """One configuration: what tells it from the others, and its figures over distinct seeds."""

    configuration: Mapping[str, str]
    seeds: list[int]
    runs: int
    test: Spread
    val: Spread | None
    seconds: float
    parameters: int | None  # None if they differ


class Results(NamedTuple):
    """All runs of a folder: finished ones as rows, the others with the reason why they have no figures."""

    rows: list[Row]
    without: list[tuple[Path, str]]


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation (n - 1) and Student's 95% interval of the mean."""
    mean = fmean(values)
    if len(values) < 2:
        return Spread(mean, None, None)
    std = stdev(values)
    half = float(student.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, (mean - half, mean + half))


def percent(values: Spread) -> str:
    """Return a mean with its standard deviation."""
    return f"{values.mean:.2f}" + (f" ± {values.std:.2f}" if values.std is not None else "")


def collect(folder: Path, group_by: Sequence[str] = ()) -> Results:
    """Read all runs at or below a folder.

    Args:
        group_by: config groups ("model") or dotted keys ("optim.lr") that make a row; by default all in
            which runs differ, but for the seed.

    Raises:
        UserError: there is no run.
        UsageError: no run has such a key.
    """
    runs, without = [], []
    for path in require_runs(folder):
        reason = why_unfinished(path)
        try:
            if reason is None:
                runs.append(read_run(path))
        except UserError as error:
            reason = str(error)
        if reason is not None:
            without.append((path, reason))
    names = list(group_by) or [name for name in distinguishing(runs) if name != SEED]
    known = {name for run in runs for name in (*run.choices, *run.values)}
    for name in names:
        if runs and name not in known:
            raise UsageError(f"--group-by {name}: no run has such a group or key. {choices(name, known)}")
    rows = [make_row(names, group) for group in grouped(names, runs)]
    return Results(sorted(rows, key=lambda row: -row.test.mean), without)


def grouped(names: Sequence[str], runs: Sequence[Run]) -> list[list[Run]]:
    """Put runs together that have the same values."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[tuple(value_of(run, name) for name in names)].append(run)
    return list(groups.values())


def make_row(names: Sequence[str], runs: Sequence[Run]) -> Row:
    """Return a group's figures. Runs of the same seed are one value, their mean: only seeds repeat."""
    same = grouped([SEED], runs)

    def figures(part: str) -> Spread | None:
        accuracies = [[run.metrics[part]["accuracy"] for run in again if run.metrics[part]] for again in same]
        return spread([fmean(values) for values in accuracies if values]) if any(accuracies) else None

    test = figures("test")
    parameters = {run.metrics["parameters"] for run in runs}
    assert test is not None, "a finished run has a test accuracy"
    return Row(
        configuration={name: value_of(runs[0], name) for name in names},
        seeds=sorted({run.metrics["seed"] for run in runs}),
        runs=len(runs),
        test=test,
        val=figures("val"),
        seconds=fmean(run.metrics["seconds"] for run in runs),
        parameters=parameters.pop() if len(parameters) == 1 else None,
    )


def cells(row: Row) -> dict[str, Any]:
    """Return a row's values by column; None where there is none. Accuracies are fractions."""
    low, high = row.test.interval or (None, None)
    return {
        **row.configuration,
        "seeds": len(row.seeds),
        "runs": row.runs,
        "test_accuracy": row.test.mean,
        "test_std": row.test.std,
        "test_95_low": low,
        "test_95_high": high,
        "val_accuracy": row.val.mean if row.val else None,
        "seconds": row.seconds,
        "parameters": row.parameters,
    }


def as_json(results: Results) -> str:
    """Return everything as JSON."""
    without = [{"run": str(path), "reason": reason} for path, reason in results.without]
    return (
        json.dumps({"finished": list(map(cells, results.rows)), "without_result": without}, indent=2) + "\n"
    )


def as_csv(results: Results) -> str:
    """Return the finished rows as CSV."""
    rows = list(map(cells, results.rows))
    file = io.StringIO()
    if rows:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


def as_markdown(results: Results) -> str:
    """Return tables to read: accuracies in percent, runs without a result apart."""
    lines = []
    if results.rows:
        names = list(results.rows[0].configuration)
        headings = [*names, "n", "test accuracy", "95% interval", "val accuracy", "seconds", "parameters"]
        lines = [
            table_row(headings),
            table_row(["---"] * len(names) + ["---:"] * (len(headings) - len(names))),
        ]
        lines += [table_row([*row.configuration.values(), *texts(row)]) for row in results.rows]
    if results.without:
        lines += ["", f"Without a result ({len(results.without)}):", ""]
        lines += [f"- {path}: {reason}" for path, reason in results.without]
    return "\n".join(lines) + "\n"


def texts(row: Row) -> list[str]:
    """Return a row's figures as text, percent for accuracies."""
    mean, std, interval = row.test
    seeds = str(len(row.seeds)) + (f" ({row.runs} runs)" if row.runs != len(row.seeds) else "")
    return [
        seeds,
        f"{mean:.2%}" + (f" ± {100 * std:.2f}" if std is not None else ""),
        f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "-",
        f"{row.val.mean:.2%}" if row.val else "-",
        f"{row.seconds:.0f}",
        f"{row.parameters:,}" if row.parameters else "-",
    ]


def table_row(values: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
