"""Draw the epochs of runs: python scripts/curves.py RUN... (several on the same axes)."""

import argparse
import io
import sys
import warnings
from pathlib import Path

from fmnist_lit.errors import UsageError, exit_status, printable
from fmnist_lit.report.curves import curves_figure
from fmnist_lit.report.own_files import write_own
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.runs import labels, read_run
from fmnist_lit.storage import write_whole

FORMATS = (".png", ".pdf", ".svg")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Draw accuracy, loss and learning rate of each epoch.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "-o", "--output", type=Path, help="PNG, PDF or SVG (default: curves.png in the one run's directory)"
    )
    return parser.parse_args()


def draw(paths: list[Path], output: Path | None) -> None:
    """Draw all runs into one file."""
    if output is None and len(paths) > 1:
        raise UsageError("several runs: name the file to draw, -o curves.png.")
    kind = output.suffix if output else ".png"
    if kind not in FORMATS:
        raise UsageError(f"-o {output}: its name must end in {', '.join(FORMATS)}.")
    names = labels([read_run(path) for path in paths])
    histories = {name: RunDirectory(path).history() for name, path in zip(names, paths, strict=True)}
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters in names that the font has not
        curves_figure(histories).savefig(drawn, format=kind[1:], dpi=120)
    if output:
        write_whole(output, drawn.getvalue())
    else:
        write_own(paths[0], "curves.png", drawn.getvalue())
    print(f"Drawn: {printable(output or paths[0] / 'curves.png')}")


def main() -> int:
    """Draw."""
    chosen = arguments()
    return exit_status(lambda: draw(chosen.runs, chosen.output))


if __name__ == "__main__":
    sys.exit(main())
