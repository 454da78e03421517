"""Evaluate finished runs: python scripts/evaluate.py RUN... [--split test|val|train]."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fmnist_lit.data.images import CLASSES
from fmnist_lit.data.sources import named_folder
from fmnist_lit.errors import exit_status, printable
from fmnist_lit.report.evaluation import Evaluation, evaluate, metrics
from fmnist_lit.report.evaluation_files import write_evaluation
from fmnist_lit.report.own_files import require_own
from fmnist_lit.report.run_directory import CHECKPOINTS, SPLITS, RunDirectory


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate finished runs from their directories alone.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best")
    parser.add_argument(
        "--data", type=named_folder, metavar="FOLDER", help="of Fashion-MNIST, if not where the run says"
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument(
        "--folds", type=int, default=5, help="stratified folds that show the accuracy's spread"
    )
    chosen = parser.parse_args()
    if chosen.folds < 2:
        parser.error("--folds must be 2 or more")
    return chosen


def evaluate_run(path: Path, chosen: argparse.Namespace, console: Console) -> None:
    """Evaluate one run, write its files and print the figures that the reports print."""
    run = RunDirectory(path, chosen.data)
    name = f"evaluation/{chosen.split}"
    require_own(path, name)  # before the long work
    evaluation = evaluate(run, chosen.split, chosen.checkpoint)
    figures = {"split": chosen.split, "checkpoint": chosen.checkpoint} | metrics(evaluation, chosen.folds)
    text_name = "multi-layer-net.txt" if run.is_mlp() else "convolution-neural-net.txt"
    write_evaluation(path, name, evaluation, figures, text_name)

    low, high = figures["accuracy_95_interval"]
    folds = figures["folds"]
    print(f"{printable(path)}: {chosen.split} images, {chosen.checkpoint} checkpoint")
    console.print(
        f"accuracy {figures['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})", highlight=False
    )
    console.print(
        f"loss {figures['loss']:.4f}, {chosen.folds} folds {folds['mean']:.4f} ± {folds['std']:.4f}"
    )
    console.print(class_table(figures["classes"]))
    console.print(sample_table(evaluation))
    print(f"Everything is in {printable(path / name)}")


def class_table(classes: dict[str, dict[str, float]]) -> Table:
    """Return the accuracy of each class, which is its recall."""
    table = Table("class")
    table.add_column("accuracy", justify="right")
    for name, figures in classes.items():
        table.add_row(name, f"{figures['recall']:.3f}")
    return table


def sample_table(evaluation: Evaluation, count: int = 10) -> Table:
    """Return the first images' true and predicted classes side by side."""
    table = Table("image", "true", "predicted")
    for index, (true, predicted) in enumerate(
        zip(evaluation.true[:count], evaluation.predicted, strict=False)
    ):
        table.add_row(
            str(index), CLASSES[true], CLASSES[predicted], style=None if true == predicted else "red"
        )
    return table


def main() -> int:
    """Evaluate every run; the first that cannot be evaluated ends it with a message."""
    chosen, console = arguments(), Console()

    def work() -> None:
        for path in chosen.runs:
            evaluate_run(path, chosen, console)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
