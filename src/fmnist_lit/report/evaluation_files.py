"""Writes an evaluation into its run directory: all of it, or nothing."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from fmnist_lit.data.images import CLASSES
from fmnist_lit.report.evaluation import CALIBRATION_BINS, NUMBERS, Evaluation, text_report
from fmnist_lit.report.figures import (
    class_accuracy_figure,
    confusion_matrix_figure,
    reliability_figure,
    sample_predictions_figure,
)
from fmnist_lit.report.own_files import own_folder
from fmnist_lit.storage import write_json

SAMPLES = 24


def write_evaluation(
    run: Path, name: str, evaluation: Evaluation, metrics: dict[str, Any], text_name: str
) -> None:
    """Write figures, predictions, texts and pictures; replace an earlier evaluation as a whole."""
    with own_folder(run, name) as unfinished:
        write_json(unfinished / "metrics.json", metrics)
        write_predictions(unfinished / "predictions.csv", evaluation)
        (unfinished / "classification_report.txt").write_text(text_report(evaluation))
        (unfinished / text_name).write_text(report_text(evaluation, metrics))
        for name, figure in figures(evaluation).items():
            figure.savefig(unfinished / f"{name}.png", dpi=120)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Write a row an image: index, true and predicted class by number, the probability of each class."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "true", "predicted", *CLASSES])
        rows = zip(evaluation.true, evaluation.predicted, evaluation.probabilities, strict=True)
        for index, (true, predicted, probabilities) in enumerate(rows):
            writer.writerow([index, true, predicted, *(f"{p:.6g}" for p in probabilities)])


def report_text(evaluation: Evaluation, metrics: dict[str, Any]) -> str:
    """Return what the reports' text files hold: loss, accuracy, and the pairs of true and predicted class."""
    pairs = (f"{t} {p}" for t, p in zip(evaluation.true, evaluation.predicted, strict=True))
    head = [f"loss {metrics['loss']:.6f}", f"accuracy {metrics['accuracy']:.4f}", "true predicted"]
    return "\n".join([*head, *pairs]) + "\n"


def figures(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw what one would rather look at than read."""
    true, predicted = evaluation.true, evaluation.predicted
    counts = confusion_matrix(true, predicted, labels=NUMBERS)
    wrong = np.flatnonzero(true != predicted)
    confident = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:SAMPLES]
    drawn = {
        "confusion_matrix": confusion_matrix_figure(counts, CLASSES),
        "class_accuracy": class_accuracy_figure(np.diag(counts) / np.maximum(counts.sum(1), 1), CLASSES),
        "samples": samples(evaluation, np.arange(min(SAMPLES, len(true))), "Sample predictions"),
        "reliability": reliability_figure(evaluation.confidence, true == predicted, CALIBRATION_BINS),
    }
    if len(confident):
        drawn["confident_mistakes"] = samples(evaluation, confident, "The most confident mistakes")
    return drawn


def samples(evaluation: Evaluation, chosen: np.ndarray, title: str) -> Figure:
    """Draw some of the images with their classes."""
    return sample_predictions_figure(
        evaluation.images[chosen], evaluation.true[chosen], evaluation.predicted[chosen], CLASSES, title
    )
