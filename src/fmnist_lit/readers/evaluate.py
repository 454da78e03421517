"""What a trained model says of a split, every metric that follows from it, and the files of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import (
    classification_report,
    confusion_matrix,
    precision_recall_fscore_support,
)
from sklearn.model_selection import StratifiedKFold
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from fmnist_lit.data.dataset import CLASSES
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.files import write_json
from fmnist_lit.plots import (
    SAMPLES,
    class_accuracy_plot,
    confusion_matrix_plot,
    reliability_plot,
    sample_plot,
)
from fmnist_lit.readers.own_files import own_folder
from fmnist_lit.readers.run_directory import RunDirectory, gives_probabilities, named_outputs, require_numbers

CALIBRATION_BINS = 15  # as Guo et al. 2017
SAMPLE_SEED = 0  # the same images for every run, so that pictures of two runs can be compared


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to one split.

    Args:
        images: uint8 of (n, 28, 28).
        true: their classes, (n,).
        probabilities: (n, outputs), of which the first belong to the classes.
        classes: their names.
    """

    images: np.ndarray
    true: np.ndarray
    probabilities: np.ndarray
    loss: float
    classes: Sequence[str] = CLASSES

    @property
    def outputs(self) -> list[str]:
        """A name for each output."""
        return named_outputs(self.classes, self.probabilities.shape[1])

    @property
    def answers(self) -> pd.DataFrame:
        """The true and the predicted class of each image, a row each."""
        return pd.DataFrame({"true": self.true, "predicted": self.predicted})

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, (n,)."""
        return np.asarray(self.probabilities.argmax(1))

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, (n,)."""
        return np.asarray(self.probabilities.max(1))


def evaluate(run: RunDirectory, split: str, checkpoint: str) -> Evaluation:
    """Let a run's model answer a split ("train", "val" or "test").

    Batches are those of training's own evaluation, so that after a run on a CPU the metrics are the same to
    the bit; mixed precision is of the training steps alone. After a run with 64-true they are of float32.

    Raises:
        UserError: the run has no such split or checkpoint, or its images cannot be had.
    """
    model, data = run.model(checkpoint), run.data_module()
    if split not in data.splits:
        raise UserError(f"{run.path} was trained without validation data: choose --split test or train.")
    images, labels = data.splits[split]
    with torch.inference_mode():
        output = torch.cat([model(batch[0]) for batch in data.evaluation_loader(split)])
    classes = data.images.classes
    loss = cross_entropy(require_numbers(output, run.path, len(classes)).double(), labels).item()
    probabilities = output if gives_probabilities(model) else output.softmax(1)
    return Evaluation(images.numpy(), labels.numpy(), probabilities.numpy(), loss, classes)


def fold_accuracies(evaluation: Evaluation, folds: int) -> list[float]:
    """Return the accuracy of each of K stratified folds; of equal folds the mean is the overall accuracy.

    Raises:
        UsageError: a class has fewer images than there are folds.
    """
    fewest = int(np.unique(evaluation.true, return_counts=True)[1].min())
    if folds > fewest:
        raise UsageError(f"--folds {folds}: a class has only {fewest} images here. Choose {fewest} or fewer.")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    hits = evaluation.true == evaluation.predicted
    return [float(hits[fold].mean()) for _, fold in splitter.split(hits, evaluation.true)]


def metrics(evaluation: Evaluation, folds: int) -> dict[str, Any]:
    """Return all metrics, fractions between 0 and 1 but for the loss."""
    true, predicted, probabilities = evaluation.true, evaluation.predicted, evaluation.probabilities
    hits, outputs = int((true == predicted).sum()), probabilities.shape[1]
    interval = binomtest(hits, len(true)).proportion_ci(method="wilson")
    names = evaluation.outputs[: len(evaluation.classes)]
    scores = precision_recall_fscore_support(true, predicted, labels=range(len(names)), zero_division=0)
    of_classes = pd.DataFrame(dict(zip(("precision", "recall", "f1", "images"), scores, strict=True)))
    best_two = np.argsort(probabilities, axis=1, kind="stable")[:, -2:]
    of_folds = fold_accuracies(evaluation, folds)
    calibration = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(true), outputs, n_bins=CALIBRATION_BINS, norm="l1"
    )
    return {
        "images": len(true),
        "accuracy": hits / len(true),
        "accuracy_95_interval": [float(interval.low), float(interval.high)],
        "loss": evaluation.loss,
        "top_2_accuracy": float((best_two == true[:, None]).any(1).mean()),
        "expected_calibration_error": float(calibration),
        "macro": of_classes.drop(columns="images").mean().to_dict(),
        "classes": dict(zip(names, of_classes.to_dict("records"), strict=True)),
        "folds": {
            "accuracy": of_folds,
            "mean": float(np.mean(of_folds)),
            "std": float(np.std(of_folds, ddof=1)),
        },
    }


def text_report(evaluation: Evaluation) -> str:
    """Return scikit-learn's classification report."""
    true, predicted, names = evaluation.true, evaluation.predicted, evaluation.outputs
    known = len(evaluation.classes)
    report: str = classification_report(
        true, predicted, labels=range(known), target_names=names[:known], digits=4, zero_division=0
    )
    return report


def report_name(run: RunDirectory) -> str:
    """Return the name that the reports gave such a run's text file."""
    is_mlp = run.config["model"]["_target_"].endswith(".MLP")
    return "multi-layer-net.txt" if is_mlp else "convolution-neural-net.txt"


def pairs_report(evaluation: Evaluation) -> str:
    """Return the text of the reports: loss, accuracy, pairs of true and predicted class."""
    accuracy = (evaluation.true == evaluation.predicted).mean()
    head = f"loss {evaluation.loss:.6f}\naccuracy {accuracy:.4f}\n"
    return head + str(evaluation.answers.to_csv(sep=" ", index=False))


def plots(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw what one would rather look at than read."""
    true, predicted, names = evaluation.true, evaluation.predicted, evaluation.outputs
    counts = confusion_matrix(true, predicted, labels=range(len(names)))
    wrong = np.flatnonzero(true != predicted)
    drawn_at_random = np.random.default_rng(SAMPLE_SEED).permutation(len(true))[:SAMPLES]
    confident = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:SAMPLES]

    def samples(chosen: np.ndarray, title: str) -> Figure:
        return sample_plot(evaluation.images[chosen], true[chosen], predicted[chosen], names, title)

    drawn = {
        "confusion_matrix": confusion_matrix_plot(counts, names),
        "class_accuracy": class_accuracy_plot(np.diag(counts) / np.maximum(counts.sum(1), 1), names),
        "samples": samples(drawn_at_random, "Sample predictions, drawn at random"),
        "reliability": reliability_plot(evaluation.confidence, true == predicted, CALIBRATION_BINS),
    }
    if len(confident):
        drawn["confident_mistakes"] = samples(confident, "The most confident mistakes")
    return drawn


def write_evaluation(
    run: Path, name: str, evaluation: Evaluation, figures: Mapping[str, Any], text_name: str
) -> None:
    """Write metrics, predictions, texts and plots; replace an earlier evaluation as a whole.

    Args:
        figures: what ``metrics`` gave.
        text_name: of the file that the reports have.
    """
    probabilities = pd.DataFrame(evaluation.probabilities, columns=evaluation.outputs)
    with own_folder(run, name) as unfinished:
        write_json(unfinished / "metrics.json", figures)
        table = pd.concat([evaluation.answers, probabilities], axis=1)
        table.to_csv(unfinished / "predictions.csv", index_label="index", float_format="%.6g")
        (unfinished / "classification_report.txt").write_text(text_report(evaluation), encoding="utf-8")
        (unfinished / text_name).write_text(pairs_report(evaluation), encoding="utf-8")
        for plot, figure in plots(evaluation).items():
            figure.savefig(unfinished / f"{plot}.png", dpi=120)
