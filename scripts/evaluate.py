"""Evaluate finished runs: python scripts/evaluate.py RUN... [--split test|val|train]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

from typing import Annotated, Any, Literal

import typer

from fmnist_lit.errors import printable
from fmnist_lit.readers.command import Checkpoint, Data, RunPaths, Trust, command_line, take_free_threads
from fmnist_lit.readers.evaluate import Evaluation, evaluate, metrics, report_name, write_evaluation
from fmnist_lit.readers.own_files import require_own
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.summary import rendered

FIRST = 10  # images whose classes are printed


@command_line
def main(
    runs: RunPaths,
    checkpoint: Checkpoint = "best",
    data: Data = None,
    trust: Trust = None,
    split: Literal["test", "val", "train"] = "test",
    folds: Annotated[int, typer.Option(min=2, help="that show the accuracy's spread")] = 5,
) -> None:
    """Evaluate finished runs from their directories alone; the first that cannot be ends it."""
    take_free_threads()
    for path in runs:
        run = RunDirectory(path, data, trust or ())
        name = f"evaluation/{split}"
        require_own(path, name)  # before the long work
        evaluation = evaluate(run, split, checkpoint)
        measured = {"split": split, "checkpoint": run.which(checkpoint)} | metrics(evaluation, folds)
        write_evaluation(path, name, evaluation, measured, report_name(run))
        print(f"{printable(path)}: {split} images, {run.which(checkpoint)} checkpoint")
        show(evaluation, measured)
        print(f"Everything is in {printable(path / name)}")


def show(evaluation: Evaluation, measured: dict[str, Any]) -> None:
    """Print what the reports print: the accuracy of each class is its recall."""
    low, high = measured["accuracy_95_interval"]
    folds = measured["folds"]
    spread = f"{len(folds['accuracy'])} folds {folds['mean']:.4f} ± {folds['std']:.4f}"
    print(f"accuracy {measured['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})")
    print(f"loss {measured['loss']:.4f}, {spread}")
    classes = [[name, f"{of['recall']:.3f}"] for name, of in measured["classes"].items()]
    print(rendered(["class", "accuracy"], classes))
    names, pairs = evaluation.outputs, zip(evaluation.true[:FIRST], evaluation.predicted, strict=False)
    first = [[str(i), names[t], names[p], "" if t == p else "wrong"] for i, (t, p) in enumerate(pairs)]
    print(rendered(["image", "true", "predicted", ""], first, texts=4))


if __name__ == "__main__":
    main()
