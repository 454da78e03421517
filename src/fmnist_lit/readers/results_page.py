"""RESULTS.md: the reports' published metrics beside those of our records. Never edited by hand."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf
from pandas import DataFrame

from fmnist_lit.readers.claims import Claim, answer, claims_table
from fmnist_lit.readers.grid_table import grid_table
from fmnist_lit.readers.loss_curve import loss_table, losses
from fmnist_lit.readers.tables import Spread, spread
from fmnist_lit.readers.text import markdown, markdown_table, render

NAMES = {"test": "test", "val": "val", "last_val": "val, last epoch"}
NEAR = 0.4  # points: what counts as reproduced
FIVE_MODELS = ("mlp4", "mlp4_patched", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")
SHORT = "champion/short"  # our recipe on a shortened schedule, with validation data
# What stands beside what, over the same seeds: title, experiment, and the one it is compared with.
COMPARISONS = (
    ("CNN B: corrected head against double softmax", "five_models/cnn_b_logits", "five_models/cnn_b"),
    ("LeNet: corrected head against double softmax", "batch_size/bs100_logits", "batch_size/bs100"),
    ("MLP4: patches (four quarters, shared) against none", "five_models/mlp4_patched", "five_models/mlp4"),
)

COLUMNS = (
    *("experiment", "seed", "changes", "test", "val", "test_flipped", "last_val", "minutes", "epochs"),
    *("parameters", "training_tflop"),
)
Records = Sequence[Mapping[str, Any]]
Published = dict[str, Any]  # of a report: "about" it, and its "rows"


def read_published(path: Path) -> dict[str, Published]:
    """Read the published metrics of each report."""
    reports = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(reports, dict)
    return {str(report): content for report, content in reports.items()}


def results_page(
    published: Mapping[str, Published],
    records: Records,
    claims: Sequence[Claim],
    studies: Mapping[str | None, DataFrame],
) -> str:
    """Return RESULTS.md.

    Args:
        studies: runs by study, those of experiments under None.
    """
    table = as_table(records)
    tables = {
        report: recipe_table(content["rows"], table)
        if report == "champion"
        else report_table(report, content["rows"], table)
        for report, content in published.items()
    }
    return render(
        "RESULTS.md",
        published=published,
        tables=tables,
        short=SHORT,
        ingredients=ingredient_table(table),
        comparisons=comparison_table(table),
        claims={
            report: claims_table([claim for claim in claims if claim.report == report], studies)
            for report in published
        },
        grid=grid_table(studies.get("mlp_grid"), published.get("grid_search", {}).get("best_ten", [])),
        losses=loss_table(published.get("batch_size", {}).get("losses", []), losses(records)),
        verdicts=Counter(answer(claim, studies).verdict for claim in claims),
        reproduced=reproduced(published, table),
    )


def reproduced(published: Mapping[str, Published], table: DataFrame) -> Counter[str]:
    """Count the published figures by how near ours come."""
    found: Counter[str] = Counter()
    for report, content in published.items():
        for row in content["rows"]:
            whole, _ = runs_of(f"{report}/{row['row']}", table)
            if row.get("published") is None:
                continue
            apart = 0.0 if whole.empty else whole[row["figure"]].mean() - row["published"]
            near = "near" if abs(apart) <= NEAR else "above" if apart > 0 else "below"
            found["not run" if whole.empty else near] += 1
    return found


def as_table(records: Records) -> DataFrame:
    """Return records as a table; accuracies in percent, None where there is none."""

    def percent_of(record: Mapping[str, Any], split: str) -> float | None:
        return 100 * record[split]["accuracy"] if record.get(split) else None

    rows = [
        {
            "experiment": record["experiment"],
            "seed": record["seed"],
            "changes": " ".join(record["overrides"]),
            **{split: percent_of(record, split) for split in ("test", "val", "test_flipped")},
            "last_val": 100 * record["history"]["val_accuracy"][-1]
            if record["val"] and "history" in record
            else None,
            "minutes": record["seconds"] / 60,
            **{key: record.get(key) for key in ("epochs", "parameters", "training_tflop")},
        }
        for record in records
    ]
    return DataFrame(rows, columns=COLUMNS, dtype=object)


def runs_of(experiment: str, table: DataFrame) -> tuple[DataFrame, DataFrame]:
    """Return the whole runs of an experiment, then those that changed it."""
    of = table[table["experiment"] == experiment]
    return of[of["changes"] == ""], of[of["changes"] != ""]


def percent(values: Spread) -> str:
    """Return a mean with its standard deviation."""
    return f"{values.mean:.2f}" + (f" ± {values.std:.2f}" if values.std is not None else "")


def interval(values: Spread, sign: str = "") -> str:
    """Return a 95% interval of the mean."""
    return "-" if values.interval is None else " to ".join(f"{end:{sign}.2f}" for end in values.interval)


def minutes(runs: DataFrame) -> str:
    """Return the mean time of some runs."""
    return f"{runs['minutes'].mean():.0f}"


def report_table(report: str, rows: Sequence[Mapping[str, Any]], table: DataFrame) -> str:
    """Return the table of one report."""
    headings = ["experiment", "figure", "published", "ours", "n", "difference"]
    headings += ["test", "epochs", "minutes", "notes"]
    return markdown_table(headings, [report_row(f"{report}/{row['row']}", row, table) for row in rows])


def report_row(experiment: str, row: Mapping[str, Any], table: DataFrame) -> list[str]:
    """Return one row: of whole runs if there are any; changed runs stand in the notes."""
    figure, published = row.get("figure"), row.get("published")
    whole, others = runs_of(experiment, table)
    notes = [row["notes"]] if row.get("notes") else []
    notes += changed(others, figure)
    shown = "-" if published is None else f"{published:.2f}"
    if whole.empty:
        kind = NAMES.get(figure or "", "-")
        return [f"`{experiment}`", kind, shown, "not run", "0", *"----", "; ".join(notes) or "-"]
    kind = figure or ("test" if whole["val"].isna().all() else "val")
    ours, epochs = spread(whole[kind]), whole["epochs"]
    if published is not None and row.get("why") and abs(ours.mean - published) > NEAR:
        notes.append(row["why"])
    return [
        f"`{experiment}`",
        NAMES[kind] if figure else f"{kind} (no figure)",
        shown,
        percent(ours),
        str(len(whole)),
        "-" if published is None else f"{ours.mean - published:+.2f}",
        percent(spread(whole["test"])),
        "-".join(map(str, sorted({epochs.min(), epochs.max()}))),
        minutes(whole),
        "; ".join(notes) or "-",
    ]


def measured(experiment: str, figure: str | None, records: Records) -> str:
    """Say in a line what an experiment gave, for the header of its config."""
    whole, others = runs_of(experiment, as_table(records))
    if whole.empty:
        return "; ".join(["not run", *changed(others, figure)])
    return f"{accuracies(whole, figure)} (n = {len(whole)}), {minutes(whole)} minutes"


def accuracies(runs: DataFrame, figure: str | None) -> str:
    """Name the accuracies: validation (of the last epoch where that was published), and test."""
    val = [] if runs["val"].isna().all() else ["last_val" if figure == "last_val" else "val"]
    return ", ".join(f"{NAMES[kind]} {percent(spread(runs[kind]))}" for kind in (*val, "test"))


def changed(runs: DataFrame, figure: str | None) -> list[str]:
    """Say what each of some runs gave that are not the whole experiment as it stands."""
    each = [runs.iloc[[number]] for number in range(len(runs))]
    return [
        f"with {markdown(run['changes'].item())} (n = 1): {accuracies(run, figure)}; {minutes(run)} minutes"
        for run in each
    ]


def with_measured(header: str, line: str) -> str:
    """Put a line in the place of a config's "Measured"."""
    return re.sub(r"^# Measured: .*$", lambda _: f"# Measured: {line}.", header, count=1, flags=re.MULTILINE)


def recipe_table(rows: Sequence[Mapping[str, Any]], table: DataFrame) -> str:
    """Return accuracy, limits and cost of our own recipes, whole runs alone."""
    headings = ["experiment", "test", "n", "95% interval", "with mirror images"]
    headings += ["parameters", "TFLOP", "epochs", "minutes"]
    lines = []
    for experiment in (f"champion/{row['row']}" for row in rows):
        made, _ = runs_of(experiment, table)
        if experiment == SHORT:
            continue
        if made.empty:
            lines.append([f"`{experiment}`", "not run", "0", *"------"])
            continue
        test, first = spread(made["test"], limits=(0, 100)), made.iloc[0]
        lines.append(
            [
                f"`{experiment}`",
                percent(test),
                str(len(made)),
                interval(test),
                percent(spread(made["test_flipped"])),
                f"{first['parameters']:,}",
                f"{made['training_tflop'].max():.1f}",
                str(first["epochs"]),
                minutes(made),
            ]
        )
    return markdown_table(headings, lines)


def ingredient_table(table: DataFrame) -> str:
    """Return validation accuracies of the short recipe as it is and with each change, best first."""
    headings = ["changed", "val", "n", "difference", "95% interval"]
    runs = table[table["experiment"] == SHORT] if len(table) else table
    by_change = (
        {change: of.set_index("seed")["val"] for change, of in runs.groupby("changes")} if len(runs) else {}
    )
    whole = by_change.pop("", None)
    lines = []
    if whole is not None:
        lines.append(["nothing", percent(spread(whole)), str(len(whole)), "-", "-"])
    for change, made in sorted(by_change.items(), key=lambda item: -item[1].mean()):
        apart = (made - whole).dropna() if whole is not None else []
        difference = spread(apart) if len(apart) else None
        told = [f"{difference.mean:+.2f}", interval(difference, "+")] if difference else ["-", "-"]
        lines.append([f"`{change}`", percent(spread(made)), str(len(made)), *told])
    return markdown_table(headings, lines)


def comparison_table(table: DataFrame) -> str:
    """Return the paired comparisons: the same seeds, hence the same order of the same images."""
    headings = ["comparison", "seeds", "first", "second", "mean difference", "95% interval"]
    lines = []
    for title, *pair in COMPARISONS:
        first, second = (runs_of(name, table)[0].set_index("seed")["test"] for name in pair)
        seeds = sorted(set(first.index) & set(second.index))
        if not seeds:
            alone = [percent(spread(side)) if len(side) else "not run" for side in (first, second)]
            lines.append([title, "0 in common", *alone, "-", "-"])
            continue
        difference = spread(first[seeds] - second[seeds])
        both = [percent(spread(side[seeds])) for side in (first, second)]
        told = [f"{difference.mean:+.2f}", interval(difference, "+")]
        lines.append([title, str(len(seeds)), *both, *told])
    return markdown_table(headings, lines)


def five_models_plot(records: Records) -> Figure:
    """Draw accuracy and loss of each epoch for the six rows of five_models, a line for each seed."""
    figure = Figure(figsize=(18, 6), layout="constrained")
    grid = figure.subplots(2, len(FIVE_MODELS), sharex=True)
    for column, name in enumerate(FIVE_MODELS):
        runs = [
            r["history"] for r in records if r["experiment"] == f"five_models/{name}" and not r["overrides"]
        ]
        for axes, kind in zip(grid[:, column], ("accuracy", "loss"), strict=True):
            for run in runs:
                for split, colour in (("train", "C0"), ("test", "C1")):
                    values, label = run[f"{split}_{kind}"], split if run is runs[0] else None
                    epochs = range(1, len(values) + 1)
                    axes.plot(epochs, values, color=colour, alpha=0.7, linewidth=1, label=label)
            axes.grid(alpha=0.3)
            axes.set_ylabel(kind if column == 0 else "")
        grid[0, column].set_title(f"{name} (n = {len(runs)})")
        grid[1, column].set_xlabel("epoch")
    if grid[0, 0].lines:
        grid[0, 0].legend()
    return figure
