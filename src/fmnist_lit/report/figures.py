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
    images: np.ndarray, true: np.ndarray, predicted: np.ndarray, names: tuple[str, ...], columns: int = 6
) -> Figure:
    """Draw uint8 images of (n, 28, 28) with true and predicted names, right ones green, wrong ones red."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.7 * columns, 2.0 * rows), layout="constrained")
    for i, (image, truth, guess) in enumerate(zip(images, true, predicted, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
        title = names[guess] if guess == truth else f"{names[guess]}\n(is {names[truth]})"
        axes.set_title(title, fontsize=9, color=CORRECT if guess == truth else WRONG)
    figure.suptitle("Test images with the predicted class")
    return figure
