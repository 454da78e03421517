"""The README's table and figure: published accuracies beside ours, from records alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from fmnist_lit.errors import UserError
from fmnist_lit.plots import styled
from fmnist_lit.readers.records import Records, as_rows
from fmnist_lit.readers.results_page import Published, minutes, percent, rows_of
from fmnist_lit.readers.spread import spread
from fmnist_lit.readers.text import render

BEGIN, END = "<!-- made by make results: begin -->", "<!-- made by make results: end -->"
INK, OURS = "#848d97", "#3b82d4"  # to be read on white and on black


class Line(NamedTuple):
    """A row of the table: an experiment, the published test accuracy, and our runs'."""

    experiment: str
    published: float | None
    tests: Sequence[float]
    parameters: int
    minutes: str

    def ours(self) -> str:
        """Return our accuracy and the number of runs."""
        return f"{percent(self.tests)} ({len(self.tests)})"


def lines_of(published: Mapping[str, Published], records: Records) -> list[Line]:
    """Return the rows that ``published.yaml`` wants in the README, as far as they were run."""
    table, found = as_rows(records), []
    for report, content in published.items():
        wanted = {f"{report}/{row['row']}": row.get("readme") for row in content["rows"]}
        for row in rows_of(report, content, table):
            if wanted[row.experiment] and len(row.runs):
                value = row.published if row.figure == "test" else None
                runs = row.runs
                size = int(runs["parameters"].iloc[0])
                found.append(Line(row.experiment, value, runs["test"], size, minutes(runs)))
    return found


def with_table(readme: str, lines: Sequence[Line]) -> str:
    """Put the table between its two marks.

    Raises:
        UserError: they are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README.md has no place for its table: {BEGIN} and {END}.")
    return f"{before}{begin}\n{render('overview.md', lines=lines)}{end}{after}"


@styled
def overview_plot(lines: Sequence[Line]) -> Figure:
    """Draw each row's published test accuracy and ours, mean and standard deviation, on no background."""
    figure = Figure(figsize=(7.5, 1.2 + 0.32 * len(lines)), facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    for place, line in enumerate(lines):
        found = spread(line.tests)
        axes.errorbar(found.mean, place, xerr=found.std or 0, fmt="o", color=OURS, capsize=3, markersize=5)
        axes.annotate(
            f"n = {len(line.tests)}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=INK,
        )
        if line.published is not None:
            axes.plot(line.published, place, "D", markerfacecolor="none", color=INK, markersize=6)
    axes.plot([], [], "D", markerfacecolor="none", color=INK, label="published (one run)")
    axes.errorbar([], [], xerr=[], fmt="o", color=OURS, label="ours (mean ± standard deviation)")
    axes.legend(loc="lower left", fontsize=8, labelcolor=INK, frameon=False)
    axes.set_yticks(range(len(lines)), [line.experiment for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy in percent", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(axis="x", alpha=0.3, color=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure
