"""Checkpoints from which a run goes on to the same bits, whenever it was stopped."""

import errno
import hashlib
import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fmnist_lit.config import differences
from fmnist_lit.errors import Diverged, UserError
from fmnist_lit.files import give_name, remove_parts, sync_folder, whole_file
from fmnist_lit.weights import load_checkpoint

log = logging.getLogger(__name__)

ALMOST_NOTHING = 2**20  # bytes left on a disk that is full
BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


def put_before_previous(temporary: str, path: Path) -> None:
    """Give a new checkpoint its name; the last one but one is kept beside the last."""
    if path.name == LAST and path.exists():
        give_name(path, PREVIOUS)
    os.replace(temporary, path)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name and renames it: a killed run leaves no half of one.

    Each ``last.ckpt`` names the ``best.ckpt`` of its time by a digest: nothing else tells which one it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.best: str | None = None  # digest of the best epoch's file, if one was chosen

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save whole or not at all; the last checkpoint but one is kept beside the last.

        Raises:
            UserError: it cannot be written.
        """
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
        run = os.path.realpath(Path(path).parents[1])  # as Lightning writes it
        states = best_states(checkpoint)
        ours = [state["dirpath"] for key, state in states.items() if key.startswith("BestCheckpoint")]
        was = Path(ours[0]).parent if ours else Path(run)
        for state in states.values():
            for name in ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path"):
                state[name] = moved(state[name], was, run)
            kept = {moved(name, was, run): score for name, score in state["best_k_models"].items()}
            state["best_k_models"] = {name: score for name, score in kept.items() if name}
        return checkpoint


def best_states(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint says of best epochs so far, of each callback that chooses one."""
    return {key: state for key, state in checkpoint["callbacks"].items() if "best_model_path" in state}


def moved(path: str, was: Path, run: str) -> str:
    """Return a path in a run where the run is now; an empty text for one that leads out of it."""
    if not Path(path).is_relative_to(was):
        return ""
    here = os.path.realpath(os.path.join(run, Path(path).relative_to(was)))
    return here if Path(here).is_relative_to(run) else ""


def latest_valid(run: Path) -> tuple[Path | None, dict[str, Any]]:
    """Return the checkpoint from which a run can go on, and what it holds; None if it must start anew.

    Say if one is damaged.
    """
    for path in (run / "checkpoints" / LAST, run / "checkpoints" / PREVIOUS):
        try:
            return path, load_checkpoint(path)
        except UserError:
            if path.exists():
                log.warning("%s is damaged.", path)
    return None, {}


def require_same_run(
    path: Path, kept: Mapping[str, Any], config: Mapping[str, Any], callbacks: Sequence[L.Callback]
) -> None:
    """Refuse to go on with another config, or without anything that the run needs to end as it would have.

    Args:
        path: of the checkpoint.
        kept: what it holds.

    Raises:
        UserError: the message says what differs, or what is lost.
    """
    states = kept["callbacks"]
    stateful = [each for each in callbacks if type(each).state_dict is not L.Callback.state_dict]
    missing = [key for key in ("loops", "optimizer_states", "lr_schedulers") if key not in kept]
    missing += [each.state_key for each in stateful if each.state_key not in states]
    made_with = next((state["config"] for state in states.values() if "config" in state), config)
    if changes := differences(made_with, config):
        raise UserError(f"{path} was made with another config: {'; '.join(changes)}.")
    if missing:
        raise UserError(f"{path} does not hold all of a run: it has no {', '.join(missing)}.")
    if kept.get("best") is not None:
        load_best(path.parent, kept["best"], kept["global_step"])


def digest(path: Path) -> str:
    """Return a text that no other content of a file gives."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_best(folder: Path, named: str | None = None, step: float = math.inf) -> dict[str, Any]:
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
        give_name(folder / LAST, BEST)
        sync_folder(folder)
    (folder / PREVIOUS).unlink(missing_ok=True)
    remove_parts(folder)


def last_good(run: Path) -> str:
    """Say which checkpoint of a run is still good."""
    last = run / "checkpoints" / LAST
    return f"Last good checkpoint: {last}" if last.exists() else "There is no checkpoint before that."


def diverged(what: str, run: Path) -> Diverged:
    """Return the error that says what is no number, what to do, and which checkpoint is still good."""
    return Diverged(f"{what}: training diverged. Try a lower learning rate: optim.lr=... {last_good(run)}")
