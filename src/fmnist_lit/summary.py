"""What a run prints on the terminal at its start and end."""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fmnist_lit.errors import printable
from fmnist_lit.models.layer_table import Row


def start_summary(config: Mapping[str, Any], layers: Sequence[Row], parameters: int) -> str:
    """Return what a run is going to train, and how: its layers, its optimizer, its batches."""
    rows = [[row.layer, "x".join(map(str, row.output)), f"{row.parameters:,}"] for row in layers]
    optim = dict(config["optim"])
    name = optim.pop("_target_").rpartition(".")[2]
    how = ", ".join([name, *(f"{key} {value}" for key, value in optim.items())])
    table = rendered(["layer", "output", "parameters"], rows)
    return f"{table}\n{parameters:,} parameters; {how}; batches of {config['data'].get('batch_size')}"


def summary(directory: Path, metrics: Mapping[str, Any]) -> str:
    """Return a finished run's metrics, a user's own among them, as a table to print."""
    splits = {split: metrics[split] or {} for split in ("train", "val", "test")}
    names = list(dict.fromkeys(["accuracy", "loss", *(name for of in splits.values() for name in of)]))
    rows = [
        [split, *(f"{of[name]:.4f}" if name in of else "-" for name in names)] for split, of in splits.items()
    ]
    return (
        f"The tested weights in evaluation mode:\n{rendered(['split', *names], rows)}\n"
        f"{metrics['epochs']} epoch{'s' * (metrics['epochs'] != 1)}, {metrics['seconds']:.0f} s, "
        f"{metrics['images_per_second']:,.0f} images/s, {metrics['parameters']:,} parameters, "
        f"seed {metrics['seed']}\nEverything is in {directory}"
    )


def rendered(headings: list[str], rows: list[list[str]], texts: int = 1) -> str:
    """Return a table as text, as wide as the terminal and in its characters; nothing in it is markup.

    Args:
        texts: columns from the left that hold text; those behind them hold numbers.
    """
    has_lines = str(getattr(sys.stdout, "encoding", None) or "utf").lower().startswith("utf")
    table = Table(box=box.HEAVY_HEAD if has_lines else box.ASCII)
    for number, heading in enumerate(headings):
        justify: Any = "left" if number < texts else "right"
        table.add_column(Text(printable(heading)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell, most=2000)) for cell in row))
    output = io.StringIO()
    Console(file=output).print(table)
    return output.getvalue().rstrip("\n")
