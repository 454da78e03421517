"""RESULTS.md: the reports' published metrics beside those of our records. Never edited by hand."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from matplotlib.figure import Figure
from pandas import DataFrame, Series, concat

from fmnist_lit.plots import BLUE, ORANGE, styled
from fmnist_lit.readers.claims import Claim, answer, claims_table
from fmnist_lit.readers.grid_table import grid_table
from fmnist_lit.readers.loss_curve import loss_table, losses
from fmnist_lit.readers.records import Records, as_rows
from fmnist_lit.readers.spread import spread
from fmnist_lit.readers.text import filled, markdown, render

NAMES = {"test": "test", "val": "val", "last_val": "val, last epoch"}
NEAR = 0.4  # points: what counts as reproduced
# A verdict on an ingredient takes so many pairs, and one below a fifth of a point so many more.
PAIRS, SMALL, PAIRS_OF_SMALL = 5, 0.2, 10
FIVE_MODELS = ("mlp4", "mlp4_patched", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")
SHORT = "champion/short"  # our recipe on a shortened schedule, with validation data
PRECISION = r"trainer\.precision=\S+"  # an override that changes how a recipe is computed, not the recipe
PAIRED = ["precision", "gpu", "seed"]  # in which both runs of a pair are alike
# What stands beside what, over the same seeds: title, experiment, and the one it is compared with.
COMPARISONS = (
    ("CNN B: corrected head against double softmax", "five_models/cnn_b_logits", "five_models/cnn_b"),
    ("LeNet: corrected head against double softmax", "batch_size/bs100_logits", "batch_size/bs100"),
    ("MLP4: patches (four quarters, shared) against none", "five_models/mlp4_patched", "five_models/mlp4"),
)

Published = dict[str, Any]  # of a report: "about" it, and its "rows"


def read_published(path: Path) -> dict[str, Published]:
    """Read the published metrics of each report."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def read_commands(path: Path) -> dict[str, list[str]]:
    """Read the commands of each study; none where there is no such file."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Row(NamedTuple):
    """A row of a report: what was published, our runs of it, and how far they lie apart, in points."""

    experiment: str
    figure: str  # what was published: its name
    published: float | None
    runs: DataFrame
    kind: str  # the column of runs that stands beside it
    apart: float | None
    notes: str
    printed: list[str]  # published / ours, of each column that is printed


def results_page(
    published: Mapping[str, Published],
    records: Records,
    claims: Sequence[Claim],
    studies: dict[str, DataFrame],
    commands: Mapping[str, Sequence[str]],
) -> str:
    """Return RESULTS.md."""
    table = as_rows(records)
    tables = studies | {None: table[table["changes"] == ""]}
    rows = {report: rows_of(report, content, table) for report, content in published.items()}
    return render(
        "RESULTS.md",
        published=published,
        about={report: with_figures(content["about"], table) for report, content in published.items()},
        rows=rows,
        claims={
            report: claims_table([claim for claim in claims if claim.report == report], tables)
            for report in published.keys() & {claim.report for claim in claims}
        },
        short=SHORT,
        ingredients=ingredients(concat([table, studies.get("ingredients")])),
        sizes=sizes(studies.get("isoflop", table.head(0))),
        comparisons=comparisons(table),
        grid=grid_table(studies.get("mlp_grid"), published.get("grid_search", {}).get("best_ten", [])),
        losses=loss_table(published.get("batch_size", {}).get("losses", []), losses(records)),
        verdicts=Counter(answer(claim, tables).verdict for claim in claims),
        reproduced=Counter(nearness(row) for of in rows.values() for row in of if row.published is not None),
        percent=percent,
        interval=lambda values: spread(values, limits=(0, 100)).interval_text(),
        difference=difference,
        verdict_of=verdict_of,
        minutes=minutes,
        commands=commands,
    )


def rows_of(report: str, content: Published, table: DataFrame) -> list[Row]:
    """Return the rows of a report: of whole runs if there are any; changed runs stand in the notes."""
    found, columns = [], content.get("columns", {}).values()
    for row in content["rows"]:
        experiment, figure, published = f"{report}/{row['row']}", row.get("figure"), row.get("published")
        runs, others = runs_of(experiment, table)
        kind = figure or ("test" if runs["val"].isna().all() else "val")
        apart = None if published is None or runs.empty else runs[kind].mean() - published
        why = row.get("why", "") if abs(apart or 0) > NEAR else ""
        prose = [with_figures(text, table) for text in (row.get("notes", ""), why)]
        notes = filter(None, [prose[0], *changed(others, figure), prose[1]])
        name = NAMES[figure] if figure else "-" if runs.empty else f"{kind} (no figure)"
        both = zip(row["printed"], columns, strict=True) if "printed" in row else ()
        printed = [beside(value, runs, column) for value, column in both]
        found.append(Row(experiment, name, published, runs, kind, apart, "; ".join(notes) or "-", printed))
    return found


def with_figures(text: str, table: DataFrame) -> str:
    """Fill in the figures that a text takes from runs: ``{{ ours("five_models/cnn_c", "test", "max") }}``."""

    def ours(experiment: str, column: str, which: str = "mean") -> str:
        runs = runs_of(experiment, table)[0]
        found = runs[column].agg(which) if column in runs and len(runs) else math.nan
        return "-" if math.isnan(found) else f"{found:.0f}" if found == int(found) else f"{found:.2f}"

    return filled(text, ours=ours)


def beside(published: float | None, runs: DataFrame, column: str) -> str:
    """Return a published figure and the mean of ours."""
    ours = runs[column].dropna() if column in runs else Series(dtype=float)
    form = ".4f" if column.endswith("_loss") else ".2f"
    both = (math.nan if published is None else published, ours.mean())
    return " / ".join("-" if math.isnan(value) else f"{value:{form}}" for value in both)


def nearness(row: Row) -> str:
    """Say how near ours comes to the published figure."""
    if row.apart is None:
        return "not run"
    return "near" if abs(row.apart) <= NEAR else "above" if row.apart > 0 else "below"


def runs_of(experiment: str, table: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the whole runs of an experiment, then those that changed it."""
    of = table[table["experiment"] == experiment]
    return of[of["changes"] == ""], of[of["changes"] != ""]


def percent(accuracies: "Series[float]") -> str:
    """Return the mean of some accuracies with its standard deviation."""
    return spread(accuracies).mean_text() if len(accuracies) else "not run"


def difference(pairs: "Series[float]") -> str:
    """Return the mean of differences of pairs and its interval, two cells of a table."""
    found = spread(pairs) if len(pairs) else None
    return f"{found.mean:+.2f} | {found.interval_text('+.2f')}" if found else "- | -"


def verdict_of(pairs: "Series[float]") -> str:
    """Say whether the differences of pairs, in points, show which is better; a small one needs more pairs."""
    if pairs.empty:
        return "-"
    if len(pairs) < PAIRS:
        return "too few pairs"
    found = spread(pairs)
    low, high = found.interval or (-math.inf, math.inf)
    if low <= 0 <= high or (abs(found.mean) < SMALL and len(pairs) < PAIRS_OF_SMALL):
        return "cannot be told"
    return "better" if low > 0 else "worse"


def minutes(runs: DataFrame, unit: str = "") -> str:
    """Return the median time of some runs, for a run may have been held up, and the GPUs if it is theirs."""
    places = ", ".join(sorted({gpu for gpu in runs["gpu"] if gpu}))
    return f"{runs['minutes'].median():.0f}{unit}" + (f" on {places}" if places else "")


def measured(experiment: str, figure: str | None, table: DataFrame) -> str:
    """Say in a line what an experiment gave, for the header of its config."""
    whole, others = runs_of(experiment, table)
    if whole.empty:
        return "; ".join(["not run", *changed(others, figure)])
    return f"{accuracies(whole, figure)} (n = {len(whole)}), {minutes(whole, ' minutes')}"


def accuracies(runs: DataFrame, figure: str | None) -> str:
    """Name the accuracies: validation (of the last epoch where that was published), and test."""
    val = [] if runs["val"].isna().all() else ["last_val" if figure == "last_val" else "val"]
    return ", ".join(f"{NAMES[kind]} {percent(runs[kind])}" for kind in (*val, "test"))


def changed(runs: DataFrame, figure: str | None) -> list[str]:
    """Say what each of some runs gave that are not the whole experiment as it stands."""
    each = [runs.iloc[[number]] for number in range(len(runs))]
    return [
        f"with {markdown(run['changes'].item())} (n = 1): {accuracies(run, figure)}; "
        + minutes(run, " minutes")
        for run in each
    ]


def headers(published: Mapping[str, Published], records: Records, folder: Path) -> dict[Path, str]:
    """Return the configs of all experiments, each with what was measured in its header."""
    table, texts = as_rows(records), {}
    for report, content in published.items():
        for row in content["rows"]:
            experiment = f"{report}/{row['row']}"
            path = folder / f"{experiment}.yaml"
            line = measured(experiment, row.get("figure"), table)
            texts[path] = with_measured(path.read_text(encoding="utf-8"), line)
    return texts


def with_measured(header: str, line: str) -> str:
    """Put a line in the place of a config's "Measured"."""
    return re.sub(r"(?m)^# Measured: .*$", lambda _: f"# Measured: {line}.", header, count=1)


def ingredients(table: DataFrame) -> list[tuple[str, "Series[float]", "Series[float]"]]:
    """Return the short recipe as it is and with each change, best first.

    Each has its name, its validation accuracies, and their differences from the recipe's of the same seed,
    precision and GPU, if any. Of two runs that are alike in all of these the later row counts: a study made
    all of its own on one machine.
    """
    runs = table[table["experiment"] == SHORT].copy()  # whole: a table of many columns comes in pieces
    precision = runs["changes"].str.extract(rf"({PRECISION})", expand=False).fillna("")
    changes = runs["changes"].str.replace(PRECISION, "", regex=True).str.split().str.join(" ")
    runs = runs.assign(precision=precision, changes=changes)
    runs = runs.drop_duplicates(["changes", *PAIRED], keep="last")
    by_change = {str(change): of.set_index(PAIRED)["val"] for change, of in runs.groupby("changes")}
    whole = by_change.pop("", Series(dtype=float))
    best_first = sorted(by_change.items(), key=lambda item: -item[1].mean())
    changed = [(f"`{change}`", made, (made - whole).dropna()) for change, made in best_first]
    return [("nothing", whole, Series(dtype=float)), *changed]


def sizes(table: DataFrame) -> list[tuple[str, DataFrame]]:
    """Return the runs of each size of network that were given the same computation, smallest first."""
    named = [(f"`{change}`", runs) for change, runs in table.groupby("changes")]
    return sorted(named, key=lambda size: float(size[1]["parameters"].max()))


def comparisons(table: DataFrame) -> list[tuple[str, "Series[float]", "Series[float]", "Series[float]"]]:
    """Return the paired comparisons: the same seeds, hence the same order of the same images.

    Each has its title, the test accuracies of both sides, and their differences.
    """
    found = []
    for title, *pair in COMPARISONS:
        first, second = (runs_of(name, table)[0].set_index("seed")["test"] for name in pair)
        pairs = (first - second).dropna()
        if len(pairs):
            first, second = first[pairs.index], second[pairs.index]
        found.append((title, first, second, pairs))
    return found


@styled
def five_models_plot(records: Records, published: Sequence[Mapping[str, Any]] = ()) -> Figure:
    """Draw accuracy and loss of each epoch for the six rows of five_models, a line for each seed.

    Args:
        published: the report's rows; the test accuracy of each is a line.
    """
    tests = {row["row"]: row["published"] / 100 for row in published if "published" in row}
    figure = Figure(figsize=(13, 5))
    grid = figure.subplots(2, len(FIVE_MODELS), sharex=True)
    for column, name in enumerate(FIVE_MODELS):
        whole = (r for r in records if r["experiment"] == f"five_models/{name}" and not r["overrides"])
        runs = [record["history"] for record in whole]
        for axes, kind in zip(grid[:, column], ("accuracy", "loss"), strict=True):
            for run, (split, colour) in product(runs, (("train", BLUE), ("test", ORANGE))):
                values, label = run[f"{split}_{kind}"], split if run is runs[0] else None
                epochs = range(1, len(values) + 1)
                axes.plot(epochs, values, color=colour, alpha=0.7, linewidth=1, label=label)
            axes.grid(alpha=0.3)
            axes.set_ylabel(kind if column == 0 else "")
        if name in tests:
            grid[0, column].axhline(tests[name], color="black", linestyle="--", label="published test")
        grid[0, column].set_title(f"{name} (n = {len(runs)})")
        grid[1, column].set_xlabel("epoch")
    if grid[0, 0].lines:
        grid[0, 0].legend()
    return figure
