"""One table over all finished runs of a folder: a row a configuration, over its seeds."""

import csv
import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple
from unicodedata import normalize

from scipy.stats import t as student

from fmnist_lit.errors import UsageError, UserError, choices, printable
from fmnist_lit.report.run_files import why_unfinished
from fmnist_lit.report.runs import Run, distinguishing, is_trial, read_run, require_runs, value_of, varying

SEED = "seed"
HANDFUL = 5  # columns of a readable table that say what differs; CSV and JSON have all
SIGNS = ("=", "+", "-", "@")  # spreadsheets take such text for a formula


class Spread(NamedTuple):
    """Mean, standard deviation and 95% interval of the mean; the last two are None for one value."""

    mean: float
    std: float | None
    interval: tuple[float, float] | None


class Row(NamedTuple):
    """What tells some runs from the others, and their figures over distinct seeds.

    Runs that differ in more than the seed are a mixture: they have a mean, but no spread over seeds.
    """

    configuration: Mapping[str, str]
    mixes: list[str]  # what differs within the row, but for the seed
    seeds: list[int]
    runs: int
    test: Spread
    val: Spread | None
    seconds: float
    parameters: int | None  # None if they differ


class Results(NamedTuple):
    """All runs of a folder: finished ones as rows, the others with the reason why they have no figures.

    Trials of a search were made to be chosen among: where there are other runs, they stand apart.
    """

    rows: list[Row]
    without: list[tuple[Path, str]]
    searches: Counter[Path]  # trials by folder


def spread(values: Sequence[float], limits: tuple[float, float] = (-math.inf, math.inf)) -> Spread:
    """Return mean, standard deviation (n - 1) and Student's 95% interval of the mean, cut to its limits."""
    mean = fmean(values)
    if len(values) < 2:
        return Spread(mean, None, None)
    std = stdev(values)
    half = float(student.ppf(0.975, len(values) - 1)) * std / math.sqrt(len(values))
    return Spread(mean, std, (max(limits[0], mean - half), min(limits[1], mean + half)))


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
    found = require_runs(folder)
    searches = Counter(path.parent for path in found if is_trial(path))
    if searches.total() == len(found):  # they alone were asked for
        searches.clear()
    for path in (path for path in found if path.parent not in searches):
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
    return Results(sorted(rows, key=lambda row: -row.test.mean), without, searches)


def grouped(names: Sequence[str], runs: Sequence[Run]) -> list[list[Run]]:
    """Put runs together that have the same values."""
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[tuple(value_of(run, name) for name in names)].append(run)
    return list(groups.values())


def make_row(names: Sequence[str], runs: Sequence[Run]) -> Row:
    """Return a group's figures. Runs of the same seed are one value, their mean: only seeds repeat."""
    same = grouped([SEED], runs)
    mixes = [varying(runs, name) for name in distinguishing(runs) if name not in (SEED, *names)]

    def figures(part: str) -> Spread | None:
        accuracies = [[run.metrics[part]["accuracy"] for run in again if run.metrics[part]] for again in same]
        if not any(accuracies):
            return None
        made = spread([fmean(values) for values in accuracies if values], limits=(0, 1))
        return Spread(made.mean, None, None) if mixes else made

    test = figures("test")
    parameters = {run.metrics["parameters"] for run in runs}
    assert test is not None, "a finished run has a test accuracy"
    return Row(
        configuration={name: value_of(runs[0], name) for name in names},
        mixes=mixes,
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
        "mixes": ", ".join(row.mixes),
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
    content = {
        "finished": list(map(cells, results.rows)),
        "without_result": [{"run": str(path), "reason": reason} for path, reason in results.without],
        "searches": [{"folder": str(path), "trials": count} for path, count in results.searches.items()],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def as_csv(results: Results) -> str:
    """Return the finished rows as CSV; no text in it is a formula."""
    rows = list(map(cells, results.rows))
    file = io.StringIO()
    if rows:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(no_formula, rows[0]))
        writer.writerows(map(no_formula, row.values()) for row in rows)
    return file.getvalue()


def no_formula(value: Any) -> Any:
    """Return a value as a spreadsheet may read it: text that looks like a formula gets an apostrophe."""
    if not isinstance(value, str) or value == "-" or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value):
        return value
    text = printable(value, most=len(value))
    return f"'{text}" if normalize("NFKC", value.lstrip()).startswith(SIGNS) else text


def as_markdown(results: Results) -> str:
    """Return tables to read: accuracies in percent, a handful of differences; what has no row apart."""
    lines = []
    if results.rows:
        names = list(results.rows[0].configuration)
        also = ["also"] if len(names) > HANDFUL + 1 else []
        shown = names[:HANDFUL] if also else names
        headings = [*map(markdown, shown), *also, "n", "test accuracy", "95% interval", "val accuracy"]
        headings += ["seconds", "parameters", "notes"]
        left = len(shown) + len(also)
        lines = [
            table_row(headings),
            table_row(["---"] * left + ["---:"] * (len(headings) - left - 1) + ["---"]),
        ]
        for row in results.rows:
            folded = {
                key: value for key, value in row.configuration.items() if key not in shown and value != "-"
            }
            words = [few([f"{key}={value}" for key, value in folded.items()])] if also else []
            told = [row.configuration[name] for name in shown]
            lines.append(table_row([*map(markdown, [*told, *words]), *texts(row)]))
        lines += ["", "n: seeds. 95% interval of the mean over seeds: Student's t, cut to 0 to 100%."]
    if results.searches:
        lines += ["", "Trials of a search, kept apart; name its folder to tabulate them:", ""]
        lines += [f"- {markdown(path)}: {count} trials" for path, count in results.searches.items()]
    if results.without:
        lines += ["", f"Without a result ({len(results.without)}):", ""]
        lines += [f"- {markdown(path)}: {markdown(reason, most=300)}" for path, reason in results.without]
    return "\n".join(lines) + "\n"


def texts(row: Row) -> list[str]:
    """Return a row's figures as text, percent for accuracies."""
    mean, std, interval = row.test
    seeds = str(len(row.seeds)) + (f" ({row.runs} runs)" if row.runs != len(row.seeds) else "")
    notes = [f"mixes {few(row.mixes)}: no spread over seeds"] if row.mixes else []
    notes += ["one seed: no spread"] if len(row.seeds) == 1 and not row.mixes else []
    return [
        seeds,
        f"{mean:.2%}" + (f" ± {100 * std:.2f}" if std is not None else ""),
        f"{interval[0]:.2%} to {interval[1]:.2%}" if interval else "-",
        f"{row.val.mean:.2%}" if row.val else "-",
        f"{row.seconds:.0f}",
        f"{row.parameters:,}" if row.parameters else "-",
        markdown("; ".join(notes), most=300) or "-",
    ]


def few(items: Sequence[str]) -> str:
    """Join a handful of texts, and say how many are left out."""
    kept = [printable(item, most=60) for item in items[:HANDFUL]]
    return ", ".join(kept) + (f" and {len(items) - HANDFUL} more" if len(items) > HANDFUL else "")


def markdown(text: object, most: int = 200) -> str:
    """Return a text for Markdown in which nothing is markup, link or HTML."""
    return re.sub(r"([\\`*]|(?<=\])[(\[:])", r"\\\1", printable(text, most)).replace("<", "&lt;")


def table_row(values: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
