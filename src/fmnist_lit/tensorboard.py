"""What TensorBoard shows beyond scalars, at the end of a run: graph, config, final metrics and figures."""

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from torchmetrics.classification import MulticlassConfusionMatrix

from fmnist_lit.classifier import Classifier
from fmnist_lit.config import leaves
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.plots import SAMPLES, confusion_matrix_plot, sample_plot

log = logging.getLogger(__name__)


def log_run(
    trainer: L.Trainer,
    classifier: Classifier,
    data: DataModule,
    config: Mapping[str, Any],
    choices: Mapping[str, str],
    metrics: Mapping[str, Any],
    outputs: "TestOutputs",
) -> None:
    """Complete the events of a finished run, if it has a TensorBoard logger.

    Args:
        choices: the option chosen of each config group, as "model": "cnn_c".
        metrics: what metrics.json holds.
        outputs: what the model said of the test set.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            log_graph(logger, classifier, data)
            text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
            logger.experiment.add_text("config", "```yaml\n" + text + "```")
            logger.log_hyperparams(hyperparameters(config, choices), final_metrics(metrics))
            log_plots(logger, data, outputs, trainer.current_epoch)
            logger.finalize("success")


def log_graph(logger: TensorBoardLogger, classifier: Classifier, data: DataModule) -> None:
    """Log the network's graph, traced with one image; it is not worth a run's result if that fails."""
    images = next(iter(data.evaluation_loader("test")))[0]
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


class TestOutputs(L.Callback):
    """Keeps what the figures of the test set show: the confusion matrix and the first predictions.

    Args:
        classes: outputs of the model.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = MulticlassConfusionMatrix(classes)
        self.predicted: list[int] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count where the model answers."""
        self.confusion.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch's answers, if it is one of the test set."""
        loaders: Any = trainer.test_dataloaders
        if list(loaders)[dataloader_idx] != "test":
            return
        self.confusion.update(outputs.argmax(1), batch[1])
        self.predicted += outputs[: max(0, SAMPLES - len(self.predicted))].argmax(1).tolist()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up what all processes have counted."""
        self.counts = self.confusion.compute().cpu().numpy()


def log_plots(logger: TensorBoardLogger, data: DataModule, outputs: TestOutputs, step: int) -> None:
    """Log the test set's confusion matrix and the first images with their predictions."""
    images, labels = (part[: len(outputs.predicted)].cpu().numpy() for part in data.splits["test"])
    names, writer = data.images.classes, logger.experiment
    classes = (*names, *map(str, range(len(names), len(outputs.counts))))  # a model may have more outputs
    writer.add_figure("test/confusion_matrix", confusion_matrix_plot(outputs.counts, classes), step)
    samples = sample_plot(
        images,
        labels,
        np.array(outputs.predicted),
        classes,
        heading="Test images with the predicted class",
    )
    writer.add_figure("test/predictions", samples, step)
