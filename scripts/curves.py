"""Draw the epochs of runs: python scripts/curves.py RUN... (several on the same axes)."""

from pathlib import Path
from typing import Annotated

from fmnist_lit.errors import UsageError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.plots import curves_plot, file_content
from fmnist_lit.readers.command import RunPaths, command_line, kind_of, output_option
from fmnist_lit.readers.own_files import write_own
from fmnist_lit.readers.tables import labels
from fmnist_lit.run_files import read_history


@command_line
def main(
    runs: RunPaths,
    output: Annotated[Path | None, output_option("PNG, PDF or SVG; of one run RUN/curves.png")] = None,
) -> None:
    """Draw accuracy, loss and learning rate of each epoch."""
    if output is None and len(runs) > 1:
        raise UsageError("several runs: name the file to draw, -o curves.png.")
    kind = kind_of(output or Path("curves.png"), ("png", "pdf", "svg"))
    histories = {name: read_history(path) for name, path in zip(labels(runs), runs, strict=True)}
    drawn = file_content(curves_plot(histories), kind)
    if output:
        write_whole(output, drawn)
    else:
        write_own(runs[0], "curves.png", drawn)
    print(f"Drawn: {printable(output or runs[0] / 'curves.png')}")


if __name__ == "__main__":
    main()
