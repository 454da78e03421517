"""Draw the epochs of runs: python scripts/curves.py RUN... (several on the same axes)."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.errors import UsageError, exit_status
from fmnist_lit.report.curves import curves_figure
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.runs import labels, read_run

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
    output = output or paths[0] / "curves.png"
    if output.suffix not in FORMATS:
        raise UsageError(f"-o {output}: its name must end in {', '.join(FORMATS)}.")
    names = labels([read_run(path) for path in paths])
    histories = {name: RunDirectory(path).history() for name, path in zip(names, paths, strict=True)}
    curves_figure(histories).savefig(output, dpi=120)
    print(f"Drawn: {output}")


def main() -> int:
    """Draw."""
    chosen = arguments()
    return exit_status(lambda: draw(chosen.runs, chosen.output))


if __name__ == "__main__":
    sys.exit(main())
