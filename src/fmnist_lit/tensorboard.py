"""What loggers get at the end of a run: the final metrics; TensorBoard graph, config and figures too."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import OmegaConf
from torchmetrics.classification import MulticlassConfusionMatrix

from fmnist_lit.classifier import Classifier
from fmnist_lit.config import leaves
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.plots import SAMPLES, confusion_matrix_plot, sample_plot

log = logging.getLogger(__name__)


class FinalEvents(L.Callback):
    """Keeps what the test shows, and completes what the loggers of a finished run have.

    Args:
        config: of the run.
        outputs: of the model.
    """

    def __init__(self, config: Mapping[str, Any], outputs: int) -> None:
        self.config = config
        self.confusion = MulticlassConfusionMatrix(outputs)
        self.predicted: list[int] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch's answers, if it is one of the test set; keep those to the first images."""
        loaders: Any = trainer.test_dataloaders
        if list(loaders)[dataloader_idx] != "test":
            return
        self.confusion.to(pl_module.device).update(outputs.argmax(1), batch[1])
        self.predicted += outputs[: max(0, SAMPLES - len(self.predicted))].argmax(1).tolist()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up what all processes have counted."""
        self.counts = self.confusion.compute().cpu().numpy()

    def write(self, trainer: L.Trainer, classifier: Classifier, metrics: Mapping[str, Any]) -> None:
        """Log the final metrics; to TensorBoard, graph, config and figures too.

        Args:
            metrics: what metrics.json holds.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        final = final_metrics(metrics)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                known = {name: value for name, value in final.items() if not math.isnan(value)}
                logger.log_metrics(known, step=trainer.current_epoch)
                logger.save()
            else:
                log_graph(logger, classifier, data)
                text = OmegaConf.to_yaml(OmegaConf.create(dict(self.config)))
                logger.experiment.add_text("config", "```yaml\n" + text + "```")
                columns = metrics["choices"] | plain_values(self.config)
                logger.log_hyperparams(columns, final)
                self.log_figures(logger, data, trainer.current_epoch)
                logger.finalize("success")

    def log_figures(self, logger: TensorBoardLogger, data: DataModule, step: int) -> None:
        """Log the test set's confusion matrix and the first images with their predictions."""
        images, labels = (part[: len(self.predicted)].cpu().numpy() for part in data.splits["test"])
        names, writer = data.images.classes, logger.experiment
        classes = (*names, *map(str, range(len(names), len(self.counts))))  # a model may have more outputs
        matrix = confusion_matrix_plot(self.counts, classes)
        writer.add_figure("test/confusion_matrix", matrix, step)
        heading = "Test images with the predicted class"
        samples = sample_plot(images, labels, np.array(self.predicted), classes, heading=heading)
        writer.add_figure("test/predictions", samples, step)


@contextmanager
def forgotten_traces() -> Iterator[None]:
    """Let PyTorch forget what is traced here; it would keep a megabyte of each job of a sweep.

    There is no public way, and this one forgets all that was compiled in the process: if others have
    compiled something, nothing is forgotten.
    """
    unit = getattr(torch.jit._state, "_python_cu", None)
    forget = getattr(torch._C, "_jit_clear_class_registry", None)
    alone = unit is not None and not unit.get_functions()
    yield
    if alone and forget:
        forget()


def log_graph(logger: TensorBoardLogger, classifier: Classifier, data: DataModule) -> None:
    """Log the network's graph, traced with one image; it is not worth a run's result if that fails."""
    images = next(iter(data.evaluation_loader("test")))[0]
    weight = next(classifier.model.parameters())  # on the CPU again after a run, perhaps of double precision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer deprecates itself; the graph is right
        try:
            with forgotten_traces():
                image = images[:1].to(weight)
                traced = torch.jit.trace(classifier.model.eval(), image, check_trace=False)
                logger.experiment.add_graph(traced, image)
                del traced
        except RuntimeError as error:
            log.warning("TensorBoard gets no graph of this model: %s", error)


def plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's columns of the HPARAMS tab: plain values, without class paths."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in leaves(config)
        if not key.endswith("_target_")
    }


def final_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of the tested weights, as loggers and TensorBoard's HPARAMS tab have them.

    A run without validation data must have that column too: TensorBoard takes the columns from one run.
    """
    names = dict.fromkeys(["loss", "accuracy", *metrics["test"]])
    return {
        f"final/{part}_{name}": (metrics[part] or {}).get(name, math.nan)
        for part in ("train", "val", "test")
        for name in names
    }
