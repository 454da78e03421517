"""Figures of what a model says of images."""

import numpy as np
from matplotlib.figure import Figure

CORRECT, WRONG = "#1a7f37", "#cf222e"


def confusion_matrix_figure(counts: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw counts of (true class, predicted class), coloured by the share of the true class."""
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"Confusion matrix, accuracy {np.trace(counts) / max(counts.sum(), 1):.2%}")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure


def sample_predictions_figure(
    images: np.ndarray, true: np.ndarray, predicted: np.ndarray, names: tuple[str, ...], heading: str
) -> Figure:
    """Draw uint8 images of (n, 28, 28) with true and predicted names, right ones green, wrong ones red."""
    columns = 6
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.0 * rows), layout="constrained")
    for i, (image, truth, guess) in enumerate(zip(images, true, predicted, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        title = names[guess] if guess == truth else f"{names[guess]}\n(is {names[truth]})"
        axes.set_title(title, fontsize=9, color=CORRECT if guess == truth else WRONG)
    figure.suptitle(heading)
    return figure


def class_accuracy_figure(accuracies: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw the accuracy of each class as a bar, the first class on top."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(names)), accuracies, color="#4c78a8")
    axes.bar_label(bars, [f"{accuracy:.1%}" for accuracy in accuracies], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("accuracy")
    axes.set_title("Accuracy of each class")
    return figure


def reliability_figure(confidence: np.ndarray, correct: np.ndarray, bins: int) -> Figure:
    """Draw the share of right answers against the confidence, and how often each confidence occurs."""
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    means = [np.bincount(place, v, bins)[filled] / counts[filled] for v in (confidence, correct)]
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    upper.plot(*means, marker="o", color="#4c78a8", label="this model")
    upper.set_ylabel("share of right answers")
    upper.set_title("Reliability")
    upper.legend()
    lower.bar(edges[:-1], counts, width=1 / bins, align="edge", color="#4c78a8")
    lower.set_yscale("log")
    lower.set_ylabel("images")
    lower.set_xlabel("confidence")
    return figure
