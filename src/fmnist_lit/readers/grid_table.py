"""The best runs of report grid_search's MLP grid, beside those that it prints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pandas import DataFrame

from fmnist_lit.readers.text import render

BEST = 10
VALIDATION_IMAGES = 12_000


def grid_table(study: DataFrame | None, printed: Sequence[Mapping[str, Any]]) -> str:
    """Return the best ten of our runs by the last epoch's validation accuracy, and what was printed of each.

    Args:
        study: a row a run, as ``records.as_rows`` gives them.
        printed: the report's ten, with a value for each heading that a figure of ours has.
    """
    if study is None or study.empty:
        return "Not run yet."
    best = study.sort_values(["last_val", "last_val_loss"], ascending=[False, True]).head(BEST)
    share = best["last_val"].mean() / 100
    return render(
        "grid_table.md",
        best=best,
        runs=len(study),
        known={(row["hidden layers"], str(row["dropout"])): (n, row) for n, row in enumerate(printed, 1)},
        vals=[row["val"] for row in printed],
        error=100 * math.sqrt(share * (1 - share) / VALIDATION_IMAGES),
    )
