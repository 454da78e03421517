"""Checkpoints from which a run goes on to the same bits, whenever it was stopped."""

import errno
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist_lit.classifier import Classifier, Tally
from fmnist_lit.errors import Diverged, UserError
from fmnist_lit.interrupt import Signals
from fmnist_lit.ranks.exchange import ALONE, Ranks

log = logging.getLogger(__name__)

ALMOST_NOTHING = 2**20  # bytes left on a disk that is full
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
RANK_SEED = 1_000_003  # apart by more than anybody's seeds


def random_state(device: torch.device) -> dict[str, torch.Tensor | None]:
    """Return the state of PyTorch's random numbers on the CPU and on the training device."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, torch.Tensor | None], device: torch.device) -> None:
    """Go on drawing from there."""
    if state["cpu"] is not None:
        torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under another name and renames it: a killed run leaves no half of one.

    Args:
        writes: False where another rank does.
    """

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.writes = writes

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save whole or not at all; the last checkpoint but one is kept beside the last.

        Raises:
            UserError: it cannot be written.
        """
        if not self.writes:
            return
        path = Path(path)
        temporary = path.with_suffix(".part")
        try:
            path.parent.mkdir(exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                link = path.with_name(f"{PREVIOUS}.part")
                link.unlink(missing_ok=True)
                os.link(path, link)
                os.replace(link, path.with_name(PREVIOUS))
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a fault of its own
            full = shutil.disk_usage(path.parent).free < ALMOST_NOTHING
            temporary.unlink(missing_ok=True)
            reason = os.strerror(errno.ENOSPC) if full else error
            raise UserError(f"{path} cannot be written: {reason}") from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint; what it says of its own place is made true, for runs may be moved."""
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        folder = Path(path).parent
        for state in checkpoint["callbacks"].values():
            if "best_model_path" in state:
                state["dirpath"] = str(folder)
                state["best_model_path"] = str(folder / Path(state["best_model_path"]).name)
        return dict(checkpoint)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there and what it holds is what was written, by its checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            intact = file.testzip() is None
        torch.load(path, map_location="cpu", weights_only=True)  # it reads what the checksums leave out
    except Exception:  # there are many words for a damaged file: whatever they are, this is none to use
        return False
    return intact


def newest_whole(run: Path) -> Path | None:
    """Return the checkpoint from which a run can go on; None if it must start anew. Say if one is damaged."""
    for checkpoint in (run / "checkpoints" / LAST, run / "checkpoints" / PREVIOUS):
        if is_whole(checkpoint):
            return checkpoint
        if checkpoint.exists():
            log.warning("%s is damaged.", checkpoint)
    return None


class StopWhenDiverged(L.Callback):
    """Ends a run at the first loss that is no number, before a checkpoint of it is kept."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the losses of the last group of steps.

        Raises:
            Diverged: one is infinite or not a number.
        """
        assert isinstance(pl_module, Classifier)
        losses = torch.stack([loss for loss, _ in pl_module.group])
        wrong = (~losses.isfinite()).nonzero()
        if not len(wrong):
            return
        first = int(wrong[0])
        step = trainer.global_step - len(losses) + first + 1
        raise Diverged(
            f"the training loss is {losses[first].item()} at step {step} (epoch {trainer.current_epoch + 1}, "
            f"learning rate {pl_module.group[first][1]:g}): training diverged. Try a lower learning rate: "
            f"optim.lr=... {last_good(Path(trainer.default_root_dir))}"
        )


def last_good(run: Path) -> str:
    """Say which checkpoint of a run is still good."""
    last = run / "checkpoints" / LAST
    return f"Last good checkpoint: {last}" if last.exists() else "There is no checkpoint before that."


class ResumePoints(Checkpoint):
    """Saves ``last.ckpt`` after each epoch, and within it when enough time has passed or a signal came.

    What Lightning leaves out is added: random state, sums of the epoch, and the time that the run took.
    In Lightning's order of callbacks checkpoints come last, so that all others have seen the step.

    Args:
        folder: of the checkpoints.
        every_s: largest time between two checkpoints, in seconds; a group of batches more, or a validation.
        signals: that may ask to stop.
        ranks: that train together; they save and stop together.
    """

    def __init__(self, folder: Path, every_s: float, signals: Signals, ranks: Ranks = ALONE) -> None:
        self.ranks = ranks
        self.folder, self.every_s, self.signals = folder, every_s, signals
        self.started = self.saved = time.monotonic()
        self.due: int = False
        self.state: Mapping[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Note whose sums are saved."""
        assert isinstance(pl_module, Classifier)
        self.classifier = pl_module

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning does not save."""
        return {
            "random": self.ranks.gather(random_state(self.classifier.device)),
            "seconds": self.seconds,
            "tally": self.classifier.tallies["train"].state(),
        }

    @property
    def seconds(self) -> float:
        """The time that the run has taken so far, without the time when it was stopped."""
        return time.monotonic() - self.started

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts: whatever is built before may draw random numbers."""
        self.state = state_dict
        self.started -= state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore, and let signals wait for the end of a step from now on."""
        if self.state is not None:
            self.classifier.tallies["train"] = Tally.of(self.state["tally"], pl_module.device)
            set_random_state(self.state["random"][self.ranks.rank], pl_module.device)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                    trainer.should_stop = True  # it had said so just before the run was stopped
        elif self.ranks.rank:  # all have drawn the same weights; their dropout is to differ
            torch.manual_seed(torch.initial_seed() + RANK_SEED * self.ranks.rank)
        self.saved = time.monotonic()
        self.signals.own()  # Lightning has put its own handlers before ours; they would end the run unsaved
        self.signals.deferred = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to; the last group of an epoch waits for the epoch's end."""
        if batch_idx + 1 == trainer.num_training_batches:
            return
        self.agree()
        if self.signals.number is not None or self.due:
            self.save(trainer)

    def agree(self) -> None:
        """Ask whether it is time to save, and whether to stop; all ranks must do the same."""
        due = time.monotonic() - self.saved >= self.every_s
        number, self.due = self.ranks.largest([self.signals.number or 0, due])
        self.signals.number = number or None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        self.agree()
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save, and stop if a signal came.

        Raises:
            Diverged: there is nothing worth saving.
            Interrupted: a signal came.
        """
        if not all(weight.isfinite().all() for weight in self.classifier.model.parameters()):
            raise Diverged(
                f"weights are no numbers any more at step {trainer.global_step}: training diverged. Try a "
                f"lower learning rate: optim.lr=... {last_good(Path(trainer.default_root_dir))}"
            )
        trainer.save_checkpoint(self.folder / LAST)
        self.saved = time.monotonic()
        self.signals.check()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False
        self.signals.check()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False
