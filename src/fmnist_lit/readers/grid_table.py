"""The best runs of report grid_search's MLP grid, beside those that it prints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pandas import DataFrame

from fmnist_lit.readers.text import markdown_table

BEST = 10
VALIDATION_IMAGES = 12_000
HEADINGS = ("hidden layers", "dropout", "final rate", "val", "val loss", "train", "train loss", "epochs")


def grid_table(study: DataFrame | None, printed: Sequence[Mapping[str, Any]]) -> str:
    """Return the best ten of our runs by the last epoch's validation accuracy, and what was printed of each.

    Args:
        study: a row a run, as ``claims.as_rows`` gives them.
        printed: the report's ten, a value for each of the headings.
    """
    if study is None or not len(study):
        return "Not run yet."
    known = {(row["hidden layers"], str(row["dropout"])): (rank, row) for rank, row in enumerate(printed, 1)}
    best = study.sort_values(["last_val", "last_val_loss"], ascending=[False, True]).head(BEST)
    lines = []
    for _, run in best.iterrows():
        hidden = run["model.hidden"].strip("[]").replace(",", ", ")
        rank, row = known.get((hidden, run["model.dropout"]), (None, None))
        theirs = "-" if row is None else f"{row['val']:.2f}, {row['val loss']:.4f}, {row['epochs']} epochs"
        figures = [f"{run['last_val']:.2f}", f"{run['last_val_loss']:.4f}"]
        figures += [f"{run['last_train']:.2f}", f"{run['last_train_loss']:.4f}", str(run["epochs"])]
        lines.append(
            [hidden, run["model.dropout"], f"{run['final_rate']:g}", *figures, str(rank or "-"), theirs]
        )
    share, apart = best["last_val"].mean() / 100, best["last_val"].max() - best["last_val"].min()
    vals = [row["val"] for row in printed]
    printed_apart = f", the printed ones within {max(vals) - min(vals):.2f}" if vals else ""
    error = 100 * math.sqrt(share * (1 - share) / VALIDATION_IMAGES)
    note = (
        f"Figures of the last epoch; {len(study)} of 30 runs, one seed each. The ten lie within {apart:.2f} "
        f"points{printed_apart}; the standard error of one such accuracy is "
        f"{error:.2f}: neither ten can be told apart."
    )
    return (
        markdown_table([*HEADINGS, "printed place", "printed val, val loss, epochs"], lines) + f"\n\n{note}"
    )
