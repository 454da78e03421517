"""Write one page about runs: python scripts/report.py RUN... -o report.html (self-contained)."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.errors import exit_status
from fmnist_lit.report.evaluation import evaluate
from fmnist_lit.report.evaluation_files import figures
from fmnist_lit.report.page import Section, page
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.runs import read_run, unique_names
from fmnist_lit.storage import write_whole


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write one self-contained page about finished runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    return parser.parse_args()


def section(path: Path) -> Section:
    """Read and evaluate one run."""
    directory = RunDirectory(path)
    directory.metrics()  # first: a run that did not finish is refused at once
    print(f"Evaluating {path} on the test images ...")
    evaluation = evaluate(directory, "test", "best")
    config = (path / "config.yaml").read_text()
    return Section(read_run(path), directory.history(), evaluation, figures(evaluation), config)


def report(paths: list[Path], output: Path) -> None:
    """Write the page about all runs."""
    sections = [section(path) for path in paths]
    write_whole(output, page(sections, unique_names(paths)).encode())
    print(f"Written: {output}")


def main() -> int:
    """Write the page."""
    chosen = arguments()
    return exit_status(lambda: report(chosen.runs, chosen.output))


if __name__ == "__main__":
    sys.exit(main())
