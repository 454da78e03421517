"""What a trained model says of a split, and every figure that follows from it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import classification_report, precision_recall_fscore_support, top_k_accuracy_score
from sklearn.model_selection import StratifiedKFold
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from fmnist_lit.data.images import CLASSES
from fmnist_lit.data.loader import BatchLoader
from fmnist_lit.errors import UsageError
from fmnist_lit.report.run_directory import RunDirectory, require_answers

CALIBRATION_BINS = 15  # as Guo et al. 2017
NUMBERS = range(len(CLASSES))


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to one split: uint8 images of (n, 28, 28), true classes, probabilities of (n, 10)."""

    images: np.ndarray
    true: np.ndarray
    probabilities: np.ndarray
    loss: float

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each image, (n,)."""
        answers: np.ndarray = self.probabilities.argmax(1)
        return answers

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, (n,)."""
        highest: np.ndarray = self.probabilities.max(1)
        return highest


def evaluate(run: RunDirectory, split: str, checkpoint: str) -> Evaluation:
    """Let a run's model answer a split ("train", "val" or "test").

    Batches are those of training's own evaluation, so that after a run on a CPU the figures are the same to
    the bit; mixed precision is of the training steps alone. After a run with 64-true they are of float32.
    """
    model = run.model(checkpoint)
    images, labels = run.images(split)
    settings = run.config["data"]
    batches = BatchLoader(images, labels, settings["eval_batch_size"], settings["normalization"])
    with torch.inference_mode():
        output = require_answers(torch.cat([model(batch) for batch, _ in batches]), run.path)
    loss = cross_entropy(output.double(), labels).item()
    probabilities = output if run.gives_probabilities() else output.softmax(1)
    return Evaluation(images.numpy(), labels.numpy(), probabilities.numpy(), loss)


def fold_accuracies(evaluation: Evaluation, folds: int) -> list[float]:
    """Return the accuracy of each of K stratified folds; of equal folds the mean is the overall accuracy.

    Raises:
        UsageError: a class has fewer images than there are folds.
    """
    fewest = int(np.bincount(evaluation.true).min())
    if folds > fewest:
        raise UsageError(f"--folds {folds}: a class has only {fewest} images here. Choose {fewest} or fewer.")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=0)
    hits = evaluation.true == evaluation.predicted
    return [float(hits[fold].mean()) for _, fold in splitter.split(hits, evaluation.true)]


def metrics(evaluation: Evaluation, folds: int) -> dict[str, Any]:
    """Return all figures, fractions between 0 and 1 but for the loss."""
    true, predicted = evaluation.true, evaluation.predicted
    hits = int((true == predicted).sum())
    interval = binomtest(hits, len(true)).proportion_ci(method="wilson")
    by_class = precision_recall_fscore_support(true, predicted, labels=NUMBERS, zero_division=0)
    macro = precision_recall_fscore_support(true, predicted, labels=NUMBERS, average="macro", zero_division=0)
    of_folds = fold_accuracies(evaluation, folds)
    return {
        "images": len(true),
        "accuracy": hits / len(true),
        "accuracy_95_interval": [float(interval.low), float(interval.high)],
        "loss": evaluation.loss,
        "top_2_accuracy": float(top_k_accuracy_score(true, evaluation.probabilities, k=2, labels=NUMBERS)),
        "expected_calibration_error": calibration_error(evaluation),
        "macro": dict(zip(("precision", "recall", "f1"), map(float, macro[:3]), strict=True)),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
            for name, p, r, f, n in zip(CLASSES, *by_class, strict=True)
        },
        "folds": {
            "accuracy": of_folds,
            "mean": float(np.mean(of_folds)),
            "std": float(np.std(of_folds, ddof=1)),
        },
    }


def calibration_error(evaluation: Evaluation) -> float:
    """Return the expected calibration error (Guo et al. 2017) over equal bins of confidence."""
    probabilities, true = torch.from_numpy(evaluation.probabilities), torch.from_numpy(evaluation.true)
    error = multiclass_calibration_error(
        probabilities, true, len(CLASSES), n_bins=CALIBRATION_BINS, norm="l1"
    )
    return float(error)


def text_report(evaluation: Evaluation) -> str:
    """Return scikit-learn's classification report."""
    report: str = classification_report(
        evaluation.true,
        evaluation.predicted,
        labels=NUMBERS,
        target_names=CLASSES,
        digits=4,
        zero_division=0,
    )
    return report
