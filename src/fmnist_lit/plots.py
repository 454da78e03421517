"""Plots of what a model says of images, and of the epochs of runs."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame
from scipy.stats import binomtest

from fmnist_lit.errors import printable

STYLE = Path(__file__).with_name("plots.mplstyle")
BLUE, ORANGE = "#0072B2", "#D55E00"
SAMPLES = 24
SEEN = 500  # images that a network saw
FIRST = (5, 10)  # rows and columns of images, as report grid_search shows them
STYLES: dict[str, Any] = {"train": "-", "val": "--", "test": ":"}
styled = rc_context(fname=STYLE)  # lets a function draw in the project's style


def literal(name: str, width: int = 150) -> str:
    """Return a name as a plot shows it: in lines that fit, and a dollar is a dollar, no formula."""
    return "\n".join(textwrap.wrap(printable(name), width)).replace("$", r"\$")


def file_content(figure: Figure, kind: str = "png", dpi: int = 120, **metadata: str) -> bytes:
    """Return a figure as a file of a kind that Matplotlib knows: "png", "pdf", "svg"."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters in names that the font has not
        figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


@styled
def confusion_matrix_plot(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw counts of (true class, predicted class), coloured by the share of the true class."""
    figure = Figure(figsize=(7.5, 6.5))
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        count = str(counts[row, column])
        axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), map(literal, names), rotation=45, ha="right")
    axes.set_yticks(range(len(names)), map(literal, names))
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set(
        xlabel="predicted class", ylabel="true class", title=f"Confusion matrix, accuracy {accuracy:.2%}"
    )
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


@styled
def sample_plot(
    images: np.ndarray, true: np.ndarray, predicted: np.ndarray, names: Sequence[str], heading: str
) -> Figure:
    """Draw uint8 images of (n, 28, 28) with what the model says, blue, or orange above what is true."""
    columns = 6
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.0 * rows))
    shown = [literal(name, 16) for name in names]
    for i, (image, truth, guess) in enumerate(zip(images, true, predicted, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        title = shown[guess] if guess == truth else f"{shown[guess]}\n(is {shown[truth]})"
        axes.set_title(title, fontsize=9, loc="center", color=BLUE if guess == truth else ORANGE)
    figure.suptitle(heading)
    return figure


@styled
def images_plot(images: np.ndarray, labels: np.ndarray, names: Sequence[str], split: str) -> Figure:
    """Draw the first of some uint8 images of (n, 28, 28) with their classes, and how many each class has."""
    rows, columns = FIRST
    figure = Figure(figsize=(10, 8.5))
    above, below = figure.subfigures(2, 1, height_ratios=[3, 1])  # type: ignore[misc]
    for axes, image, label in zip(above.subplots(rows, columns).flat, images, labels, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(literal(names[label], 16), fontsize=7, loc="center")
    for axes in above.axes:
        axes.set_axis_off()
    above.suptitle(f"The first {min(rows * columns, len(images))} of {len(images):,} images: {split}")
    axes = below.add_subplot()
    counts = np.bincount(labels, minlength=len(names))
    axes.bar_label(axes.bar([literal(name, 12) for name in names], counts, color=BLUE), fontsize=8)
    axes.set_ylabel("images")
    axes.margins(y=0.2)
    axes.tick_params(axis="x", labelsize=8)
    return figure


@styled
def seen_plot(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """Draw the first of some uint8 images of (n, 28, 28), each with a title of two lines, ten in a row."""
    images, (height, width) = images[:SEEN], (40, 34)  # pixels of an image, its title and a gap
    columns = min(len(images), 10)
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width), 255, dtype=np.uint8)
    figure = Figure(figsize=(columns * width / 28, rows * height / 28))
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (image, title) in enumerate(zip(images, titles, strict=False)):
        top, left = i // columns * height + 2, i % columns * width + 3
        sheet[top : top + 28, left : left + 28] = image
        axes.text(left + 14, top + 28, title, ha="center", va="top", fontsize=7)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    return figure


@styled
def class_accuracy_plot(accuracies: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the accuracy of each class as a bar, the first class on top."""
    figure = Figure(figsize=(6.5, 4))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), accuracies, color=BLUE)
    axes.bar_label(bars, [f"{accuracy:.1%}" for accuracy in accuracies], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), map(literal, names))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel="accuracy", title="Accuracy of each class")
    return figure


@styled
def reliability_plot(confidence: np.ndarray, correct: np.ndarray, bins: int) -> Figure:
    """Draw the share of right answers against the confidence, and how often each confidence occurs."""
    figure = Figure(figsize=(5, 6))
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    edges = np.linspace(0, 1, bins + 1)
    table = DataFrame({"confidence": confidence, "right": correct})
    filled = table.groupby(np.digitize(confidence, edges[1:-1]))
    means, shares = filled["confidence"].mean(), filled["right"].mean()
    tests = map(binomtest, filled["right"].sum(), filled.size())
    low, high = np.array([test.proportion_ci(method="wilson") for test in tests]).T
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    bars = np.maximum([shares - low, high - shares], 0)
    upper.errorbar(means, shares, yerr=bars, fmt="o-", capsize=2, label="this model, 95% interval")
    upper.set(ylabel="share of right answers", title=f"Reliability of {len(confidence):,} answers")
    upper.legend()
    lower.hist(confidence, edges, color=BLUE)
    lower.set(yscale="log", ylabel="images", xlabel="confidence")
    return figure


@styled
def curves_plot(histories: Mapping[str, DataFrame]) -> Figure:
    """Draw accuracy, loss and rate of runs on the same axes, a colour each: their history.csv by name."""
    lines = sum(literal(name).count("\n") + 1 for name in histories)  # of the legend
    figure = Figure(figsize=(13, 4.2 + 0.22 * lines))
    for axes, name in zip(figure.subplots(1, 3), ("accuracy", "loss", "learning_rate"), strict=True):
        columns = {name: "-"} | {f"{split}_{name}": style for split, style in STYLES.items()}
        for colour, history in zip(colours(len(histories)), histories.values(), strict=True):
            for column, style in columns.items():
                if column in history:
                    rows = history[["epoch", column]].dropna()  # where it was not measured
                    marker = "o" if len(rows) == 1 else None
                    fill = "full" if style == "-" else "none"  # a single point has no line to tell it by
                    axes.plot(rows["epoch"], rows[column], style, color=colour, marker=marker, fillstyle=fill)
        axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    axes.set_yscale("log")
    add_legends(figure, figure.axes[0], histories)
    return figure


def colours(count: int) -> Any:
    """Return as many colours: the style's, or a gradient where they are too few."""
    few = rcParams["axes.prop_cycle"].by_key()["color"]
    if count <= len(few):
        return few[:count]
    return colormaps["viridis"](np.linspace(0, 1, count))


def add_legends(figure: Figure, axes: Axes, histories: Mapping[str, DataFrame]) -> None:
    """Say which line is which: the splits in the first axes, the runs below all."""
    splits = [split for split in STYLES if any(f"{split}_loss" in history for history in histories.values())]
    styles = [Line2D([], [], color="black", linestyle=STYLES[split], label=split) for split in splits]
    axes.legend(handles=styles, loc="lower right")
    named = zip(colours(len(histories)), histories, strict=True)
    runs = [Line2D([], [], color=colour, label=literal(name)) for colour, name in named]
    figure.legend(handles=runs, loc="outside lower center", frameon=False)
