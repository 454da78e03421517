"""Write one page about runs: python scripts/report.py RUN... -o report.html (self-contained)."""

import argparse
import sys
from pathlib import Path

import yaml

from fmnist_lit.data.sources import named_folder
from fmnist_lit.errors import exit_status, printable
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
    parser.add_argument(
        "--data", type=named_folder, metavar="FOLDER", help="of Fashion-MNIST, if not where the run says"
    )
    return parser.parse_args()


def section(path: Path, data: Path | None) -> Section:
    """Read and evaluate one run."""
    directory = RunDirectory(path, data)
    directory.metrics()  # first: a run that did not finish is refused at once
    print(f"Evaluating {printable(path)} on the test images ...")
    evaluation = evaluate(directory, "test", "best")
    config = yaml.safe_dump(directory.config, sort_keys=False)
    return Section(read_run(path), directory.history(), evaluation, figures(evaluation), config)


def report(paths: list[Path], output: Path, data: Path | None) -> None:
    """Write the page about all runs."""
    sections = [section(path, data) for path in paths]
    write_whole(output, page(sections, unique_names(paths)).encode())
    print(f"Written: {printable(output)}")


def main() -> int:
    """Write the page."""
    chosen = arguments()
    return exit_status(lambda: report(chosen.runs, chosen.output, chosen.data))


if __name__ == "__main__":
    sys.exit(main())
