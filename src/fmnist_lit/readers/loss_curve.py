"""The training losses that report batch_size prints for its best run, beside ours on the same scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from pandas import DataFrame

from fmnist_lit.plots import BLUE, styled
from fmnist_lit.readers.spread import Spread, spread
from fmnist_lit.readers.text import render

EXPERIMENT = "batch_size/bs100"
# The sum of an epoch's 600 minibatch losses, divided by 938: the minibatches of 64 that 60,000 images make.
SCALE = 600 / 938


def losses(records: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return the training loss of each epoch (row) of each seed (column), on the report's scale."""
    whole = [one for one in records if one["experiment"] == EXPERIMENT and not one["overrides"]]
    curves = {one["seed"]: [SCALE * loss for loss in one["history"]["train_loss"]] for one in whole}
    return DataFrame(curves)


def loss_table(printed: Sequence[float], ours: DataFrame) -> str:
    """Return each epoch's loss as printed, ours, and how far they lie apart."""
    found: list[Spread | None] = [spread(losses.tolist()) for _, losses in ours.iterrows()]
    spreads = found or [None] * len(printed)
    return render("loss_table.md", epochs=list(zip(printed, spreads[: len(printed)], strict=True)))


@styled
def loss_plot(printed: Sequence[float], ours: DataFrame) -> Figure:
    """Draw both curves, ours a line for each seed."""
    figure = Figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for seed in ours:
        label = f"ours (n = {len(ours.columns)})" if seed == ours.columns[0] else None
        axes.plot(range(1, len(ours) + 1), ours[seed], color=BLUE, alpha=0.7, linewidth=1, label=label)
    axes.plot(range(1, len(printed) + 1), printed, "k.", label="published")
    axes.set(
        title=f"Training loss of {EXPERIMENT}", xlabel="epoch", ylabel="training loss, on the report's scale"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
