"""What TensorBoard shows beyond scalars, at the end of a run: graph, config, final metrics and figures."""

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fmnist_lit.classifier import Classifier
from fmnist_lit.config import leaves
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.images import CLASSES
from fmnist_lit.report.figures import confusion_matrix_figure, sample_predictions_figure

log = logging.getLogger(__name__)

SAMPLES = 24


def log_run(
    trainer: L.Trainer,
    classifier: Classifier,
    data: DataModule,
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    metrics: Mapping[str, Any],
) -> None:
    """Complete the events of a finished run, if it has a TensorBoard logger.

    Args:
        choices: the option chosen of each config group, as "model": "cnn_c".
        metrics: what metrics.json holds.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            log_graph(logger, classifier, data)
            text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
            logger.experiment.add_text("config", "```yaml\n" + text + "```")
            logger.log_hyperparams(hyperparameters(config, choices), final_metrics(metrics))
            log_figures(logger, classifier, data, trainer.current_epoch)
            logger.finalize("success")


def log_graph(logger: TensorBoardLogger, classifier: Classifier, data: DataModule) -> None:
    """Log the network's graph, traced with one image; it is not worth a run's result if that fails."""
    images, _ = next(iter(data.evaluation_loader("test")))
    weight = next(classifier.model.parameters())  # on the CPU again after a run, perhaps of double precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer deprecates itself; the graph is right
        try:
            logger.experiment.add_graph(classifier.model.eval(), images[:1].to(weight))
        except RuntimeError as error:
            log.warning("TensorBoard gets no graph of this model: %s", error)


def hyperparameters(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """Return the columns of the HPARAMS tab: choices and plain values, without class paths."""
    values = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in leaves(config)
        if not key.endswith("_target_")
    }
    return dict(choices) | values


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the HPARAMS tab.

    A run without validation data must have that column too: TensorBoard takes the columns from one run.
    """
    missing = {"loss": math.nan, "accuracy": math.nan}
    return {
        f"final/{part}_{name}": (metrics[part] or missing)[name]
        for part in ("train", "val", "test")
        for name in ("loss", "accuracy")
    }


def log_figures(logger: TensorBoardLogger, classifier: Classifier, data: DataModule, step: int) -> None:
    """Log the test set's confusion matrix and the first images with their predictions."""
    predicted = torch.cat(classifier.test_outputs).argmax(1).cpu()
    images, labels = data.parts["test"]
    labels = labels[: len(predicted)].cpu()  # fewer than all only if test batches are limited
    counts = multiclass_confusion_matrix(predicted, labels, num_classes=len(CLASSES))
    writer = logger.experiment
    writer.add_figure("test/confusion_matrix", confusion_matrix_figure(counts.numpy(), CLASSES), step)
    samples = sample_predictions_figure(
        images[:SAMPLES].cpu().numpy(),
        labels[:SAMPLES].numpy(),
        predicted[:SAMPLES].numpy(),
        CLASSES,
        heading="Test images with the predicted class",
    )
    writer.add_figure("test/predictions", samples, step)
