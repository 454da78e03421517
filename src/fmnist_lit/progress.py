"""A progress bar that looks at the clock in a step and at the numbers only four times a second."""

import time
from typing import Any

import lightning as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from fmnist_lit.classifier import Classifier

REFRESH_S = 0.25


class ProgressBar(L.Callback):
    """Shows epoch, step, loss and accuracy so far, and the time left of the whole run, on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.bar: Progress | None = None
        self.last = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the bar."""
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("left"),
            console=self.console,
            transient=True,
            refresh_per_second=1 / REFRESH_S,
        )
        epochs = trainer.max_epochs or 1
        self.bar.add_task("", total=epochs * trainer.num_training_batches, figures="")
        self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, if it is time to."""
        if self.bar is None or time.monotonic() - self.last < REFRESH_S:
            return
        assert isinstance(pl_module, Classifier)
        figures = pl_module.tallies["train"].figures()
        self.bar.update(
            self.bar.task_ids[0],
            completed=trainer.current_epoch * trainer.num_training_batches + batch_idx + 1,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            figures=f"loss {figures['loss']:.4f} accuracy {figures['accuracy']:.4f}",
        )
        self.last = time.monotonic()

    def stop(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar, so that the message stands alone."""
        self.stop()
