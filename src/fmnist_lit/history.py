"""Every epoch's figures: a row of history.csv, a line of the log, a scalar for each logger."""

import csv
import io
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from fmnist_lit.classifier import Classifier
from fmnist_lit.errors import Diverged
from fmnist_lit.storage import write_whole

log = logging.getLogger(__name__)


def now(device: torch.device) -> float:
    """Return the time in seconds after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def require_finite(name: str, loss: float) -> None:
    """End a run whose loss is no number: no later step can mend it.

    Raises:
        Diverged: the loss is infinite or not a number.
    """
    if not math.isfinite(loss):
        raise Diverged(f"{name} is {loss}: training diverged. Try a lower learning rate: optim.lr=...")


class History(L.Callback):
    """Writes ``history.csv``: one row an epoch.

    Train figures are means over the epoch's batches while the weights move and dropout is on; val and
    test figures are of the epoch's last weights. ``loss_sum`` adds up the minibatches' mean losses, as
    report five_models does. ``learning_rate`` is that of the epoch's first step. ``seconds`` is the whole
    epoch, ``images_per_second`` its training steps alone.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path  # None: nothing is written
        self.rows: list[dict[str, float]] = []
        self.started = self.trained = self.rate = 0.0
        self.images, self.steps_s = 0, 0.0  # of all epochs

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, the sums, and where the epoch stands."""
        return {
            "rows": self.rows,
            "images": self.images,
            "steps_s": self.steps_s,
            "rate": self.rate,
            "elapsed": time.perf_counter() - self.started,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; rows written after the checkpoint are dropped."""
        self.rows = state_dict["rows"]
        self.images, self.steps_s = state_dict["images"], state_dict["steps_s"]
        self.rate, self.started = state_dict["rate"], time.perf_counter() - state_dict["elapsed"]
        self.write()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and note the rate."""
        self.started, self.trained = now(pl_module.device), 0.0
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training steps."""
        self.trained = now(pl_module.device)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's row."""
        assert isinstance(pl_module, Classifier)
        ended = now(pl_module.device)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        for part, tally in pl_module.tallies.items():
            figures = tally.figures()
            row |= {f"{part}_loss": figures["loss"], f"{part}_accuracy": figures["accuracy"]}
        steps_s = (self.trained or ended) - self.started
        train = pl_module.tallies["train"]
        images = train.images
        self.images, self.steps_s = self.images + images, self.steps_s + steps_s
        row |= {
            "loss_sum": train.figures()["loss_sum"],
            "learning_rate": self.rate,
            "seconds": ended - self.started,
            "images_per_second": images / steps_s,
        }
        self.add(row, trainer)
        require_finite(f"the training loss of epoch {row['epoch']}", row["train_loss"])

    def add(self, row: dict[str, float], trainer: L.Trainer) -> None:
        """Write a row everywhere."""
        self.rows.append(row)
        self.write()
        for logger in trainer.loggers:
            logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
        log.info("%s", self.line(row, trainer.max_epochs))

    def write(self) -> None:
        """Write all rows anew: a run killed here leaves a whole file."""
        if self.path is None:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else [])
        if self.rows:
            writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())

    @staticmethod
    def line(row: dict[str, Any], epochs: int | None) -> str:
        """Return a row as a line to read."""
        parts = [
            f"{part} loss {row[f'{part}_loss']:.4f} accuracy {row[f'{part}_accuracy']:.4f}"
            for part in ("train", "val", "test")
            if f"{part}_loss" in row
        ]
        return f"epoch {row['epoch']}/{epochs}: " + ", ".join([*parts, f"{row['seconds']:.1f} s"])
