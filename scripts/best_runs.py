"""Test the best MLP and the best CNN, as the reports do: python scripts/best_runs.py [FOLDER]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UserError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.command import Data, command_line, output_option
from fmnist_lit.readers.evaluate import evaluate, pairs_report, report_name
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run_files import read_metrics, run_directories, why_unfinished


@command_line
def main(
    folder: Annotated[Path, typer.Argument(help="of runs")] = Path("outputs"),
    output: Annotated[Path, output_option("where the texts go")] = Path(),
    data: Data = None,
) -> None:
    """Find the runs that are best on validation images, test them, and write the reports' two text files."""
    best: dict[str, tuple[float, RunDirectory]] = {}
    for path in run_directories(folder):
        if why_unfinished(path) is not None or not (validation := read_metrics(path)["val"]):
            continue  # without validation images nothing but the test images could choose it
        try:
            run = RunDirectory(path, data)
        except UserError as error:
            print(f"Left out: {printable(error)}")
            continue
        name = report_name(run)
        if name not in best or validation["accuracy"] > best[name][0]:
            best[name] = validation["accuracy"], run
    if not best:
        raise UserError(f"{folder} holds no finished run with validation images.")
    for name, (accuracy, run) in sorted(best.items()):
        evaluation = evaluate(run, "test", "best")
        write_whole(output / name, pairs_report(evaluation).encode())
        tested = (evaluation.true == evaluation.predicted).mean()
        print(f"{printable(run.path)}: val accuracy {accuracy:.4f}, test accuracy {tested:.4f}, {name}")


if __name__ == "__main__":
    main()
