"""Draw the epochs of runs: python scripts/curves.py RUN... (several on the same axes)."""

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UsageError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.plots import curves_plot
from fmnist_lit.readers.command import RunPaths, command_line
from fmnist_lit.readers.own_files import write_own
from fmnist_lit.readers.tables import labels
from fmnist_lit.run_files import read_history

FORMATS = (".png", ".pdf", ".svg")


@command_line
def main(
    runs: RunPaths,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG, PDF or SVG; of one run RUN/curves.png")
    ] = None,
) -> None:
    """Draw accuracy, loss and learning rate of each epoch."""
    if output is None and len(runs) > 1:
        raise UsageError("several runs: name the file to draw, -o curves.png.")
    kind = output.suffix if output else ".png"
    if kind not in FORMATS:
        raise UsageError(f"-o {output}: its name must end in {', '.join(FORMATS)}.")
    histories = {name: read_history(path) for name, path in zip(labels(runs), runs, strict=True)}
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters in names that the font has not
        curves_plot(histories).savefig(drawn, format=kind[1:], dpi=120)
    if output:
        write_whole(output, drawn.getvalue())
    else:
        write_own(runs[0], "curves.png", drawn.getvalue())
    print(f"Drawn: {printable(output or runs[0] / 'curves.png')}")


if __name__ == "__main__":
    sys.exit(main())
