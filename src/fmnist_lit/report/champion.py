"""The tables of our own recipes: what they reach, at what cost, and what each ingredient adds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fmnist_lit.report.results import Spread, percent, spread, table_row

SHORT = "champion/short"  # the recipe on a shortened schedule, with validation data
Records = Sequence[Mapping[str, Any]]


def champion_tables(rows: Sequence[Mapping[str, Any]], records: Records) -> list[str]:
    """Return the table of the recipes, then that of the ingredients."""
    recipes = [f"champion/{row['row']}" for row in rows if f"champion/{row['row']}" != SHORT]
    return [
        *recipe_table(recipes, records),
        "",
        "### What each ingredient adds",
        "",
        f"`{SHORT}`: the recipe on a shortened schedule and 48,000 images, judged by the 12,000 validation "
        "images; one ingredient taken out or exchanged at a time. Differences are those of the same seeds.",
        "",
        *ingredient_table(records),
    ]


def recipe_table(experiments: Sequence[str], records: Records) -> list[str]:
    """Return accuracy, limits and cost of the recipes, whole runs alone."""
    headings = ["experiment", "test", "n", "95% interval", "with mirror images"]
    headings += ["parameters", "TFLOP", "epochs", "minutes"]
    lines = [table_row(headings), table_row(["---"] * len(headings))]
    for experiment in experiments:
        made = [r for r in records if r["experiment"] == experiment and not r["overrides"]]
        if not made:
            lines.append(table_row([f"`{experiment}`", "not run", "0", *["-"] * 6]))
            continue
        test = spread([100 * record["test"]["accuracy"] for record in made], limits=(0, 100))
        mirrored = spread([100 * record["test_mirrored"]["accuracy"] for record in made])
        lines.append(
            table_row(
                [
                    f"`{experiment}`",
                    percent(test),
                    str(len(made)),
                    interval(test),
                    percent(mirrored),
                    f"{made[0]['parameters']:,}",
                    f"{max(record['training_tflop'] for record in made):.1f}",
                    str(made[0]["epochs"]),
                    f"{sum(record['seconds'] for record in made) / len(made) / 60:.0f}",
                ]
            )
        )
    return lines


def ingredient_table(records: Records) -> list[str]:
    """Return validation accuracies of the short recipe as it is and with each change, best first."""
    by_change: dict[str, dict[int, float]] = defaultdict(dict)
    for record in records:
        if record["experiment"] == SHORT:
            by_change[" ".join(record["overrides"])][record["seed"]] = 100 * record["val"]["accuracy"]
    whole = by_change.pop("", {})
    headings = ["changed", "val", "n", "difference", "95% interval"]
    lines = [table_row(headings), table_row(["---"] * len(headings))]
    if whole:
        lines.append(table_row(["nothing", percent(spread(list(whole.values()))), str(len(whole)), "-", "-"]))
    for change, made in sorted(by_change.items(), key=lambda item: -fmean(item[1].values())):
        seeds = sorted(made.keys() & whole.keys())
        difference = spread([made[seed] - whole[seed] for seed in seeds]) if seeds else None
        lines.append(
            table_row(
                [
                    f"`{change}`",
                    percent(spread(list(made.values()))),
                    str(len(made)),
                    f"{difference.mean:+.2f}" if difference else "-",
                    interval(difference, "+") if difference else "-",
                ]
            )
        )
    return lines


def interval(values: Spread, sign: str = "") -> str:
    """Return a 95% interval of the mean."""
    if values.interval is None:
        return "-"
    low, high = values.interval
    return f"{low:{sign}.2f} to {high:{sign}.2f}"
