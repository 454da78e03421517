"""RESULTS.md: the reports' published figures beside those of our records. Never edited by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from fmnist_lit.report.champion import champion_tables
from fmnist_lit.report.results import Spread, markdown, percent, spread, table_row

NAMES = {"test": "test", "val": "val", "last_val": "val, last epoch"}
NEAR = 0.4  # points: what counts as reproduced
FIVE_MODELS = ("mlp4", "mlp4_patched", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")
# What stands beside what, over the same seeds: title, experiment, and the one it is compared with.
COMPARISONS = (
    ("CNN B: corrected head against double softmax", "five_models/cnn_b_logits", "five_models/cnn_b"),
    ("LeNet: corrected head against double softmax", "batch_size/bs100_logits", "batch_size/bs100"),
    ("MLP4: patches (four quarters, shared) against none", "five_models/mlp4_patched", "five_models/mlp4"),
)

Records = Sequence[Mapping[str, Any]]
Published = dict[str, Any]  # of a report: "about" it, and its "rows"


def read_published(path: Path) -> dict[str, Published]:
    """Read the published figures of each report."""
    reports = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(reports, dict)
    return {str(report): content for report, content in reports.items()}


def results_page(published: Mapping[str, Published], records: Records) -> str:
    """Return RESULTS.md."""
    lines = [
        "# Results",
        "",
        "Made by `make results` from the records in `results/`; not edited by hand. Accuracies in percent, "
        "mean ± standard deviation over n seeds (n = 1: one run, no spread). Published figures are one run "
        "each. The difference is ours minus published, in points. The test set was scored with the "
        "checkpoint that the protocol names; nothing was chosen by it (five_models watches it after every "
        "epoch, for its curves). Times are of one thread of two shared cores.",
    ]
    for report, content in published.items():
        lines += [
            "",
            f"## {report}",
            "",
            content["about"],
            "",
            *tables(report, content["rows"], records),
        ]
        if report == "five_models":
            lines += ["", "Train and test curves of the six rows: ![curves](results/five_models.png)"]
    lines += ["", "## Paired comparisons", "", *comparison_table(records)]
    return "\n".join(lines) + "\n"


def tables(report: str, rows: Sequence[Mapping[str, Any]], records: Records) -> list[str]:
    """Return what is shown of a report, or of our own recipes."""
    return champion_tables(rows, records) if report == "champion" else report_table(report, rows, records)


def report_table(report: str, rows: Sequence[Mapping[str, Any]], records: Records) -> list[str]:
    """Return the table of one report."""
    headings = [
        "experiment",
        "figure",
        "published",
        "ours",
        "n",
        "difference",
        "test",
        "epochs",
        "minutes",
        "notes",
    ]
    lines = [table_row(headings), table_row(["---"] * len(headings))]
    return lines + [table_row(row_cells(f"{report}/{row['row']}", row, records)) for row in rows]


def row_cells(experiment: str, row: Mapping[str, Any], records: Records) -> list[str]:
    """Return one row: of whole runs if there are any; changed runs stand in the notes."""
    figure, published = row.get("figure"), row.get("published")
    head = [f"`{experiment}`", NAMES.get(figure or "", "-"), "-" if published is None else f"{published:.2f}"]
    all_runs = [record for record in records if record["experiment"] == experiment]
    whole = [record for record in all_runs if not record["overrides"]]
    notes = [row["notes"]] if row.get("notes") else []
    notes += [changed(record, figure) for record in all_runs if record["overrides"]]
    if not whole:
        return [*head, "not run", "0", "-", "-", "-", "-", "; ".join(notes) or "-"]
    kind = figure or ("test" if whole[0]["val"] is None else "val")
    ours, epochs = accuracies(whole, kind), [record["epochs"] for record in whole]
    if published is not None and row.get("why") and ours.mean < published - NEAR:
        notes.append(row["why"])
    return [
        *head[:1],
        NAMES[kind] if figure else f"{kind} (no figure)",
        head[2],
        percent(ours),
        str(len(whole)),
        "-" if published is None else f"{ours.mean - published:+.2f}",
        percent(accuracies(whole, "test")),
        "-".join(map(str, sorted({min(epochs), max(epochs)}))),
        minutes(whole),
        "; ".join(notes) or "-",
    ]


def minutes(records: Records) -> str:
    """Return the mean time of some runs."""
    return f"{sum(record['seconds'] for record in records) / len(records) / 60:.0f}"


def measured(experiment: str, figure: str | None, records: Records) -> str:
    """Say in a line what an experiment gave, for the header of its config."""
    all_runs = [record for record in records if record["experiment"] == experiment]
    whole = [record for record in all_runs if not record["overrides"]]
    if not whole:
        return "; ".join(["not run", *(changed(record, figure) for record in all_runs)])
    figures = ", ".join(f"{NAMES[kind]} {percent(accuracies(whole, kind))}" for kind in kinds(whole, figure))
    return f"{figures} (n = {len(whole)}), {minutes(whole)} minutes"


def kinds(records: Records, figure: str | None) -> list[str]:
    """Return the accuracies to name: validation (of the last epoch where that was published), and test."""
    return (["last_val" if figure == "last_val" else "val"] if records[0]["val"] else []) + ["test"]


def with_measured(header: str, line: str) -> str:
    """Put a line in the place of a config's "Measured"."""
    return re.sub(r"^# Measured: .*$", lambda _: f"# Measured: {line}.", header, count=1, flags=re.MULTILINE)


def changed(record: Mapping[str, Any], figure: str | None) -> str:
    """Say what a run gave that was not the whole experiment as it stands."""
    what = f"with {markdown(' '.join(record['overrides']))} (n = 1)"
    named = kinds([record], figure)
    figures = ", ".join(f"{NAMES[kind]} {percent(accuracies([record], kind))}" for kind in named)
    return f"{what}: {figures}; {minutes([record])} minutes"


def accuracies(records: Records, kind: str) -> Spread:
    """Return the spread of an accuracy in percent: of the checkpoint tested, or of the last epoch."""
    if kind == "last_val":
        return spread([100 * record["history"]["val_accuracy"][-1] for record in records])
    return spread([100 * record[kind]["accuracy"] for record in records])


def comparison_table(records: Records) -> list[str]:
    """Return the paired comparisons: the same seeds, hence the same order of the same images."""
    headings = ["comparison", "seeds", "first", "second", "mean difference", "95% interval"]
    lines = [table_row(headings), table_row(["---"] * len(headings))]
    for title, first, second in COMPARISONS:
        ours, others = by_seed(first, records), by_seed(second, records)
        seeds = sorted(ours.keys() & others.keys())
        if not seeds:
            alone = [percent(spread(list(side.values()))) if side else "not run" for side in (ours, others)]
            lines.append(table_row([title, "0 in common", *alone, "-", "-"]))
            continue
        difference = spread([ours[seed] - others[seed] for seed in seeds])
        low, high = difference.interval or (float("nan"), float("nan"))
        lines.append(
            table_row(
                [
                    title,
                    str(len(seeds)),
                    percent(spread([ours[seed] for seed in seeds])),
                    percent(spread([others[seed] for seed in seeds])),
                    f"{difference.mean:+.2f}",
                    f"{low:+.2f} to {high:+.2f}" if difference.interval else "-",
                ]
            )
        )
    return lines


def by_seed(experiment: str, records: Records) -> dict[int, float]:
    """Return the test accuracies of an experiment's whole runs in percent, by seed."""
    return {
        record["seed"]: 100 * record["test"]["accuracy"]
        for record in records
        if record["experiment"] == experiment and not record["overrides"]
    }


def five_models_figure(records: Records) -> Figure:
    """Draw accuracy and loss of each epoch for the six rows of five_models, a line for each seed."""
    figure = Figure(figsize=(18, 6), layout="constrained")
    grid = figure.subplots(2, len(FIVE_MODELS), sharex=True)
    for column, name in enumerate(FIVE_MODELS):
        runs = [
            r["history"] for r in records if r["experiment"] == f"five_models/{name}" and not r["overrides"]
        ]
        for axes, kind in zip(grid[:, column], ("accuracy", "loss"), strict=True):
            for run in runs:
                for part, colour in (("train", "C0"), ("test", "C1")):
                    values = run[f"{part}_{kind}"]
                    label = part if run is runs[0] else None
                    axes.plot(
                        range(1, len(values) + 1), values, color=colour, alpha=0.7, linewidth=1, label=label
                    )
            axes.grid(alpha=0.3)
            axes.set_ylabel(kind if column == 0 else "")
        grid[0, column].set_title(f"{name} (n = {len(runs)})")
        grid[1, column].set_xlabel("epoch")
    if grid[0, 0].lines:
        grid[0, 0].legend()
    return figure
