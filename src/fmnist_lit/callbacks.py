"""Callbacks of every run: history.csv, the best checkpoint, the one to resume from, an early stop."""

import csv
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, RichProgressBar
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import move_data_to_device

from fmnist_lit.checkpoints import BEST, LAST, diverged
from fmnist_lit.constraints import Count, NotNegative, Text
from fmnist_lit.data.loader import size_of
from fmnist_lit.distributed import gathered, largest
from fmnist_lit.files import write_whole
from fmnist_lit.interrupt import Interrupted, Signals
from fmnist_lit.schedules import mode_of

log = logging.getLogger(__name__)

Mode = Literal["min", "max"] | None
RANK_SEED = 1_000_003  # apart by more than anybody's seeds
STEP = "step"  # what a module logs for loggers' axes; no metric


def now(device: torch.device) -> float:
    """Return the time in seconds after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def monitors(trainer: L.Trainer) -> list[str]:
    """Return the metrics that a run's callbacks look at."""
    kinds = ModelCheckpoint | callbacks.EarlyStopping
    found = (one.monitor for one in trainer.callbacks if isinstance(one, kinds))  # type: ignore[attr-defined]
    return list(dict.fromkeys(monitor for monitor in found if monitor))


class History(Checkpoint):
    """Writes ``history.csv``: a row an epoch of whatever is logged, the rate and the time.

    Train metrics are means over the epoch's batches while the weights move and dropout is on; val and test
    metrics are of the epoch's last weights, nan in an epoch without validation. ``learning_rate`` is that of
    the epoch's first step. ``seconds`` is the whole epoch, ``images_per_second`` its training steps alone.

    It is a Checkpoint because Lightning calls these last, when everybody has logged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self.started = self.paused = self.validation_s = self.rate = 0.0
        self.images = self.all_images = 0  # of this epoch, of all
        self.steps_s = 0.0  # of all epochs
        self.validated = False
        self.metrics: dict[str, torch.Tensor] = {}  # that were logged when the epoch began

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, the sums, and where the epoch stands."""
        kept = ("rows", "images", "all_images", "steps_s", "rate", "validation_s", "validated")
        return {name: getattr(self, name) for name in kept} | {"elapsed": time.perf_counter() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; rows written after the checkpoint are dropped."""
        kept = dict(state_dict)
        self.started = time.perf_counter() - kept.pop("elapsed")
        vars(self).update(kept)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what was logged so far: an epoch's start does not come again."""
        checkpoint["callbacks"][self.state_key]["metrics"] = {**self.metrics, **trainer.callback_metrics}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the file hold what the checkpoint does, and callbacks see what was logged before."""
        trainer.callback_metrics.update(move_data_to_device(self.metrics, pl_module.device))
        if self.rows or self.path.exists():
            self.write(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock and note the rate."""
        self.started, self.validation_s = now(pl_module.device), 0.0
        self.images, self.validated = 0, False
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]
        # What is logged in this hook Lightning shows at the epoch's end.
        self.metrics = dict(trainer.callback_metrics)
        bar = trainer.progress_bar_callback
        if isinstance(bar, RichProgressBar) and bar.progress and bar.train_progress_bar_id is not None:
            title = f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"  # Lightning counts from 0
            bar.progress.update(bar.train_progress_bar_id, description=title)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images."""
        self.images += size_of(batch)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock of the training steps."""
        self.paused = now(pl_module.device)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let it run on."""
        self.validation_s += now(pl_module.device) - self.paused
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's row."""
        seconds = now(pl_module.device) - self.started
        steps_s = seconds - self.validation_s
        self.all_images, self.steps_s = self.all_images + self.images, self.steps_s + steps_s
        epoch = {"epoch": float(trainer.current_epoch + 1)}
        row = epoch | self.logged(trainer) | epoch
        own = {"learning_rate": self.rate, "seconds": seconds, "images_per_second": self.images / steps_s}
        for logger in trainer.loggers:
            logger.log_metrics(own, step=trainer.current_epoch + 1)
        row |= own
        self.rows.append(row)
        self.write(trainer)
        log.info("%s", self.line(row, trainer.max_epochs, monitors(trainer)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that and why training stopped early; Lightning would say nothing."""
        done, wanted = len(self.rows), trainer.max_epochs
        if not trainer.is_global_zero or (wanted is not None and 0 <= wanted <= done):
            return
        early = trainer.early_stopping_callbacks
        why = [self.why(one) for one in early if one.stopping_reason is not EarlyStoppingReason.NOT_STOPPED]
        timers = [one for one in trainer.callbacks if isinstance(one, callbacks.Timer)]  # type: ignore[attr-defined]
        if any((left := one.time_remaining()) is not None and left <= 0 for one in timers):
            why.append("the time that it was given is over")
        for reason in why:
            log.info("Stopped early, after epoch %d of %s: %s.", done, wanted, reason)

    def why(self, early: callbacks.EarlyStopping) -> str:
        """Say what a metric was when training stopped, and its best value and epoch."""
        best = float(early.best_score)
        epochs = [row["epoch"] for row in self.rows if row.get(early.monitor) == best]
        now = f"{early.monitor} is {self.rows[-1].get(early.monitor, math.nan):.4f}"
        reason = {
            EarlyStoppingReason.PATIENCE_EXHAUSTED: f"no better in {early.wait_count} checks",
            EarlyStoppingReason.STOPPING_THRESHOLD: (
                f"better than stopping_threshold={early.stopping_threshold}"
            ),
            EarlyStoppingReason.DIVERGENCE_THRESHOLD: (
                f"worse than divergence_threshold={early.divergence_threshold}"
            ),
            EarlyStoppingReason.NON_FINITE_METRIC: "no finite number",
        }[early.stopping_reason]
        return f"{now}, {reason}" + (f"; its best was {best:.4f} in epoch {epochs[0]:.0f}" if epochs else "")

    def logged(self, trainer: L.Trainer) -> dict[str, float]:
        """Return what was logged in this epoch, training first."""
        splits = ("train", "val", "test") if self.validated else ("train",)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        of_splits = [name for split in splits for name in metrics if name.startswith(f"{split}_")]
        others = [n for n in metrics if n != STEP and not n.startswith(("train_", "val_", "test_"))]
        return {name: metrics[name] for name in [*of_splits, *others]}

    def write(self, trainer: L.Trainer) -> None:
        """Write all rows anew: a run killed here leaves a whole file."""
        if not trainer.is_global_zero:
            return
        text = io.StringIO(newline="")
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, columns, restval="nan")
        if self.rows:
            writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in self.rows)
        write_whole(self.path, text.getvalue().encode())

    @staticmethod
    def line(row: Mapping[str, float], epochs: int | None, monitored: Sequence[str] = ()) -> str:
        """Return a row as a line to read: metrics of each split, what else is monitored, the time left."""
        parts = []
        for split in ("train", "val", "test"):
            own = {n.removeprefix(f"{split}_"): row[n] for n in row if n.startswith(f"{split}_")}
            names = [n for n in dict.fromkeys(["loss", "accuracy", *own]) if n in own and n != "loss_sum"]
            if names:
                parts.append(" ".join([split, *(f"{name} {own[name]:.4f}" for name in names)]))
        others = [n for n in monitored if n in row and not n.startswith(("train_", "val_", "test_"))]
        parts += [f"{name} {row[name]:.4f}" for name in others]
        parts.append(f"{row['seconds']:.1f} s")
        left = ((epochs or 0) - row["epoch"]) * row["seconds"] / 60
        if left >= 1:
            parts.append(f"{left:.0f} min left")
        return f"epoch {row['epoch']:.0f}/{epochs}: " + ", ".join(parts)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch as ``best.ckpt``: Lightning's ModelCheckpoint in the place where a run has it.

    Args:
        monitor: a logged metric; None leaves the choice to the last epoch.
        mode: "min" or "max"; None: what the metric's name says.
        directory: of the run.
    """

    def __init__(self, monitor: Text | None, directory: Path = Path(), mode: Mode = None) -> None:
        super().__init__(
            directory / "checkpoints",
            Path(BEST).stem,
            monitor,
            mode=mode or ("min" if monitor is None else mode_of(monitor)),
            enable_version_counter=False,
        )

    @cached_property
    def state_key(self) -> str:
        """Lightning's, which it asks for several times in each step."""
        return super().state_key


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, which does not forget it when the run is stopped.

    Args:
        monitor: a logged metric.
        patience: epochs without improvement.
        min_delta: what counts as one.
        mode: "min" or "max"; None: what the metric's name says.
    """

    def __init__(
        self, monitor: Text, patience: Count = 10, min_delta: NotNegative = 0.0, mode: Mode = None
    ) -> None:
        super().__init__(monitor, min_delta, patience, mode=mode or mode_of(monitor), strict=False)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop where it had said so just before the run was stopped."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class ResumeCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` after epochs, and within one when enough time has passed or a signal came.

    What Lightning leaves out is added: random state, and the time that the run took.

    Args:
        every_s: largest time between two checkpoints, in seconds; a call of ``training_step`` more, or a
            validation.
        every_n_epochs: epochs between two checkpoints; after the last one there always is one.
        directory: of the run.
        signals: that may ask to stop.
        computed: all keys that say what is computed; a resume is held against them.
    """

    def __init__(
        self,
        every_s: NotNegative,
        every_n_epochs: Count = 1,
        directory: Path = Path(),
        signals: Signals | None = None,
        computed: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = directory / "checkpoints" / LAST
        self.every_s, self.every_n_epochs = every_s, every_n_epochs
        self.signals, self.config = signals or Signals(), dict(computed or {})
        self.started = self.saved = time.monotonic()
        self.device = torch.device("cpu")
        self.random: Sequence[Any] = ()

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning does not save."""
        return {"random": gathered(random_state(self.device)), "seconds": self.seconds, "config": self.config}

    @property
    def seconds(self) -> float:
        """The time that the run has taken so far, without the time when it was stopped."""
        return time.monotonic() - self.started

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts: whatever is built before may draw random numbers."""
        self.random = state_dict["random"]
        self.started -= state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore, and let signals wait for the end of a step from now on."""
        self.device = pl_module.device
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, callbacks.GradientAccumulationScheduler):
                one.on_train_epoch_start(trainer)  # it sets its number there, which does not come again
        self.restore_random(trainer.global_rank, trainer.world_size)
        self.saved = time.monotonic()
        self.signals.own()  # Lightning has put its own handlers before ours; they would end the run unsaved
        self.signals.deferred = True

    def restore_random(self, rank: int, world_size: int) -> None:
        """Go on drawing where this process was; one that was not there has a seed of its own."""
        if rank < len(self.random):
            set_random_state(self.random[rank], self.device)
        elif rank:  # all have drawn the same weights; their dropout is to differ
            torch.manual_seed(torch.initial_seed() + RANK_SEED * rank)
        if self.random and len(self.random) != world_size:
            log.info("Saved on %d processes, resumed on %d: not the same bits.", len(self.random), world_size)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to; after the last batch of an epoch wait for the epoch's end.

        Gradients that are accumulated for a later step are in no checkpoint: wait for that step, too.
        """
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop, due = self.agree()
        if stop or due:
            self.save(trainer, pl_module, stop)

    def agree(self) -> list[int]:
        """Ask by which signal to stop (0: none), and whether to save; all processes must do the same.

        A signal that comes meanwhile is for the next time.
        """
        return largest([self.signals.number or 0, time.monotonic() - self.saved >= self.every_s])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if it is time to."""
        stop, due = self.agree()
        epochs = trainer.current_epoch + 1
        ends = epochs == trainer.max_epochs or trainer.global_step == trainer.max_steps
        is_last = ends or trainer.should_stop
        if stop or due or is_last or epochs % self.every_n_epochs == 0:
            self.save(trainer, pl_module, stop)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, stop: int) -> None:
        """Save, and stop if all processes know of a signal; ``fast_dev_run`` keeps nothing.

        Raises:
            Diverged: there is nothing worth saving.
            Interrupted: a signal came.
        """
        if not all(weight.isfinite().all() for weight in pl_module.parameters()):
            what = f"weights are no numbers any more at step {trainer.global_step}"
            raise diverged(what, Path(trainer.default_root_dir))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()
        if stop:
            raise Interrupted(stop)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False
        self.signals.check()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of PyTorch's random numbers on the CPU and on the training device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on drawing from there."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
