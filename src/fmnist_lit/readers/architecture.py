"""A picture of a model: its layers from the image to the classes."""

from collections.abc import Sequence
from math import log2, prod

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from fmnist_lit.models.layer_table import Row
from fmnist_lit.plots import BLUE, literal, styled

PLAIN = "#d7e1ec"  # of layers without parameters
HEIGHT, HIGHEST = 0.32, 300  # inches of a layer, and of all; a config from elsewhere may have any number


@styled
def architecture_plot(layers: Sequence[Row]) -> Figure:
    """Draw a box for each layer, as wide as the logarithm of its output's size; dark ones have parameters."""
    boxes = [("image", (1, 28, 28), 0), *layers]
    figure = Figure(figsize=(7.5, min(HEIGHT * len(boxes) + 0.6, HIGHEST)))
    axes = figure.add_subplot()
    widest = max(log2(1 + prod(output)) for _, output, _ in boxes)
    for place, (name, output, parameters) in enumerate(boxes):
        width = log2(1 + prod(output)) / widest
        colour = BLUE if parameters else PLAIN
        box = FancyBboxPatch(
            (-width / 2, place - 0.36), width, 0.72, boxstyle="round,pad=0,rounding_size=0.02", color=colour
        )
        axes.add_patch(box)
        axes.text(0, place, literal(name), ha="center", va="center", color="white" if parameters else "black")
        axes.text(-0.54, place, " x ".join(map(str, output)), ha="right", va="center", fontsize=9)
        if parameters:
            axes.text(0.54, place, f"{parameters:,}", ha="left", va="center", fontsize=9)
    axes.text(-0.54, -0.9, "output", ha="right", va="center", fontsize=9, color="gray")
    axes.text(0.54, -0.9, "parameters", ha="left", va="center", fontsize=9, color="gray")
    axes.set_xlim(-0.95, 0.95)
    axes.set_ylim(len(boxes) - 0.4, -1.3)
    axes.set_axis_off()
    return figure
