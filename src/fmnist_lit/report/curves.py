"""Figures of the epochs of one run or several: accuracy, loss and learning rate."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmnist_lit.errors import printable

History = Sequence[Mapping[str, float]]
STYLES: dict[str, Any] = {"train": "-", "val": "--", "test": ":"}
FEW = 10  # colours that can be told apart; more runs get a gradient


def curves_figure(histories: Mapping[str, History]) -> Figure:
    """Draw runs on the same axes, a colour each: the rows of their history.csv by the run's name."""
    lines = sum(name.count("\n") + 1 for name in map(wrapped, histories))  # of the legend
    figure = Figure(figsize=(13, 4.2 + 0.22 * lines), layout="constrained")
    accuracy, loss, rate = figure.subplots(1, 3)
    for colour, rows in zip(colours(len(histories)), histories.values(), strict=True):
        epochs = [row["epoch"] for row in rows]
        marker = "o" if len(rows) == 1 else None
        for part, style in STYLES.items():
            for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
                values = [row[f"{part}_{name}"] for row in rows if f"{part}_{name}" in row]
                if values:
                    axes.plot(epochs, values, style, color=colour, marker=marker)
        rate.plot(epochs, [row["learning_rate"] for row in rows], color=colour, marker=marker)
    rate.set_yscale("log")
    for axes, name in ((accuracy, "accuracy"), (loss, "loss"), (rate, "learning rate")):
        label(axes, name)
    add_legends(figure, accuracy, histories)
    return figure


def colours(count: int) -> list[tuple[float, float, float, float]]:
    """Return as many colours."""
    if count <= FEW:
        return [colormaps["tab10"](i) for i in range(count)]
    return [colormaps["viridis"](i / (count - 1)) for i in range(count)]


def label(axes: Axes, name: str) -> None:
    """Name the axes; an epoch is a whole number."""
    axes.set_xlabel("epoch")
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def add_legends(figure: Figure, axes: Axes, histories: Mapping[str, History]) -> None:
    """Say which line is which: the parts in the first axes, the runs below all."""
    parts = [part for part in STYLES if any(f"{part}_loss" in rows[0] for rows in histories.values())]
    styles = [Line2D([], [], color="black", linestyle=STYLES[part], label=part) for part in parts]
    axes.legend(handles=styles, loc="lower right")
    runs = [
        Line2D([], [], color=colour, label=wrapped(name))
        for colour, name in zip(colours(len(histories)), histories, strict=True)
    ]
    legend = figure.legend(handles=runs, loc="outside lower center", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar in a name is a dollar


def wrapped(name: str) -> str:
    """Break a long name into lines that fit below the figure."""
    return "\n".join(textwrap.wrap(printable(name), 150))
