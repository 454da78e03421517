"""Checkpoints from which a run goes on to the same bits, whenever it was stopped."""

import errno
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist_lit.classifier import Classifier, Tally
from fmnist_lit.errors import Diverged, UserError
from fmnist_lit.interrupt import Interrupted, Signals
from fmnist_lit.ranks.exchange import ALONE, Ranks
from fmnist_lit.storage import PART, remove_parts, sync_folder, whole_file
from fmnist_lit.sweeps import differences
from fmnist_lit.weights import load_checkpoint

log = logging.getLogger(__name__)

ALMOST_NOTHING = 2**20  # bytes left on a disk that is full
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
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


def put_before_previous(temporary: str, path: Path) -> None:
    """Give a new checkpoint its name; the last one but one is kept beside the last."""
    if path.name == LAST and path.exists():
        link = path.with_name(f".{PREVIOUS}{PART}")
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, path.with_name(PREVIOUS))
    os.replace(temporary, path)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under another name and renames it: a killed run leaves no half of one.

    Each ``last.ckpt`` names the ``best.ckpt`` of its time by a digest: nothing else tells which one it is.

    Args:
        writes: False where another rank does.
    """

    def __init__(self, writes: bool) -> None:
        super().__init__()
        self.writes = writes
        self.best: str | None = None  # digest of the best epoch's file, if one was chosen

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save whole or not at all; the last checkpoint but one is kept beside the last.

        Raises:
            UserError: it cannot be written.
        """
        if not self.writes:
            return
        path = Path(path)
        try:
            if not path.parent.exists():
                path.parent.mkdir()
                sync_folder(path.parent.parent)
            with whole_file(path, publish=put_before_previous) as file:
                torch.save(checkpoint | ({"best": self.best} if self.best else {}), file)
            if path.name == BEST:
                self.best = digest(path)
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as a fault of its own
            full = shutil.disk_usage(path.parent).free < ALMOST_NOTHING
            reason = os.strerror(errno.ENOSPC) if full else getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be written: {reason}") from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load a checkpoint. Paths in it are replaced: a run may be moved, and nothing is written by name."""
        checkpoint = load_checkpoint(Path(path))
        self.best = checkpoint.get("best")
        folder = os.path.realpath(Path(path).parent)  # as Lightning writes it
        best = os.path.join(folder, BEST)
        for state in best_states(checkpoint):
            state.update(dirpath=folder, last_model_path="")
            if state["best_model_path"]:
                state.update(best_model_path=best, kth_best_model_path=best)
                state["best_k_models"] = {best: state["best_model_score"]}
        return checkpoint


def best_states(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a checkpoint says of the best epoch so far; nothing where none is chosen."""
    return [state for state in checkpoint["callbacks"].values() if "best_model_path" in state]


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is there and what it holds is what was written."""
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def newest_whole(run: Path) -> Path | None:
    """Return the checkpoint from which a run can go on; None if it must start anew. Say if one is damaged."""
    for checkpoint in (run / "checkpoints" / LAST, run / "checkpoints" / PREVIOUS):
        if is_whole(checkpoint):
            return checkpoint
        if checkpoint.exists():
            log.warning("%s is damaged.", checkpoint)
    return None


def require_same_run(checkpoint: Path, config: Mapping[str, Any], callbacks: Sequence[L.Callback]) -> None:
    """Refuse to go on with another config, or without anything that the run needs to end as it would have.

    Raises:
        UserError: the message says what differs, or what is lost.
    """
    kept = load_checkpoint(checkpoint)
    states = kept["callbacks"]
    stateful = [each for each in callbacks if type(each).state_dict is not L.Callback.state_dict]
    missing = [key for key in ("loops", "optimizer_states", "lr_schedulers") if key not in kept]
    missing += [each.state_key for each in stateful if each.state_key not in states]
    made_with = next((state["config"] for state in states.values() if "config" in state), config)
    if changes := differences(made_with, config):
        raise UserError(f"{checkpoint} was made with another config: {'; '.join(changes)}.")
    if missing:
        raise UserError(f"{checkpoint} does not hold all of a run: it has no {', '.join(missing)}.")
    if kept.get("best") is not None:
        load_best(checkpoint.parent, kept["best"], kept["global_step"])


def digest(path: Path) -> str:
    """Return a text that no other content of a file gives."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_best(folder: Path, named: str | None, step: float = math.inf) -> dict[str, Any]:
    """Load the best epoch's checkpoint.

    Args:
        named: digest of the one that it must be.
        step: behind which a better one may have been found; it is going to be found again.

    Raises:
        UserError: it is lost.
    """
    best = folder / BEST
    try:
        checkpoint = load_checkpoint(best)
        if named not in (None, digest(best)) and checkpoint["global_step"] <= step:
            raise UserError(f"{best} is not of the best epoch.")
    except UserError as error:
        raise UserError(
            f"{error} The best epoch's weights are lost. Without {folder}, "
            f"resume={folder.parent} trains anew."
        ) from error
    return checkpoint


def settle(folder: Path, chosen: bool) -> None:
    """Take the last epoch for the best where no validation data chose one; drop what only a resume needs."""
    if not chosen:
        link = folder / f".{BEST}{PART}"
        link.unlink(missing_ok=True)
        os.link(folder / LAST, link)
        os.replace(link, folder / BEST)
        sync_folder(folder)
    (folder / PREVIOUS).unlink(missing_ok=True)
    remove_parts(folder)


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
        config: all keys that say what is computed; a resume is held against them.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float,
        signals: Signals,
        ranks: Ranks = ALONE,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.ranks, self.config = ranks, dict(config or {})
        self.folder, self.every_s, self.signals = folder, every_s, signals
        self.started = self.saved = time.monotonic()
        self.due: int = False
        self.stop = 0  # the signal by which all ranks stop
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
            "config": self.config,
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
            self.restore_random(self.state["random"], pl_module.device)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                    trainer.should_stop = True  # it had said so just before the run was stopped
        else:
            self.restore_random([], pl_module.device)
        self.saved = time.monotonic()
        self.signals.own()  # Lightning has put its own handlers before ours; they would end the run unsaved
        self.signals.deferred = True

    def restore_random(self, states: Sequence[Any], device: torch.device) -> None:
        """Go on drawing where this rank was; a rank that was not there has a seed of its own."""
        rank, count = self.ranks.rank, self.ranks.count
        if rank < len(states):
            set_random_state(states[rank], device)
        elif rank:  # all have drawn the same weights; their dropout is to differ
            torch.manual_seed(torch.initial_seed() + RANK_SEED * rank)
        if states and len(states) != count:
            log.info("Saved on %d ranks, resumed on %d: not the same bits.", len(states), count)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time to; the last group of an epoch waits for the epoch's end."""
        if batch_idx + 1 == trainer.num_training_batches:
            return
        self.agree()
        if self.stop or self.due:
            self.save(trainer)

    def agree(self) -> None:
        """Ask whether it is time to save, and whether to stop; all ranks must do the same.

        A signal that comes meanwhile is for the next time.
        """
        due = time.monotonic() - self.saved >= self.every_s
        self.stop, self.due = self.ranks.largest([self.signals.number or 0, due])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save."""
        self.agree()
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save, and stop if all ranks know of a signal.

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
        if self.stop:
            raise Interrupted(self.stop)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False
        self.signals.check()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Let signals stop the program at once again."""
        self.signals.deferred = False
