"""The Trainer: what Lightning is told, and what it is to leave out."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only

from fmnist_lit.build import build
from fmnist_lit.checkpoints import StopWhenDiverged, WholeCheckpoints
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.history import History
from fmnist_lit.progress import ProgressBar
from fmnist_lit.ranks.exchange import ALONE, Ranks


def quiet_lightning() -> None:
    """Leave out what Lightning says to every run: devices, tips, and its own use of deprecated names."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"lightning\.")
    # A resumed run finds its own checkpoints, and its loader knows its place.
    warnings.filterwarnings("ignore", message=".*(exists and is not empty|dataloader is not resumable).*")
    # A run that goes on without all of its state is another run.
    for loss in ("won't be reloaded", "callbacks used to create the checkpoint"):
        warnings.filterwarnings("error", message=f"(?s).*{loss}.*")
    # Nothing is logged in a step, so its interval does not matter; there may be no validation data.
    warnings.filterwarnings("ignore", message=".*(smaller than the logging interval|across ranks is zero).*")
    # What ranks log they have added up themselves.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")


def accelerator(settings: Mapping[str, Any]) -> str:
    """Return "gpu" or "cpu".

    Raises:
        UserError: there are fewer GPUs than ``trainer.devices`` says.
    """
    if settings["accelerator"] == "cpu":
        return "cpu"
    found, wanted = torch.cuda.device_count(), settings["devices"]
    if settings["accelerator"] == "auto" and not found:
        return "cpu"
    if not found:
        raise UserError("trainer=gpu: PyTorch sees no CUDA device here. Choose trainer=auto or trainer=cpu.")
    if found < wanted:
        raise UserError(
            f"trainer.devices={wanted}: PyTorch sees {found} CUDA devices here. Choose fewer, or the CPU: "
            "trainer.accelerator=cpu."
        )
    return "gpu"


def build_trainer(
    config: Mapping[str, Any],
    directory: Path,
    history: History,
    callbacks: Sequence[L.Callback],
    ranks: Ranks = ALONE,
) -> L.Trainer:
    """Build the trainer of one device with its callbacks and loggers; only the first rank logs.

    Raises:
        UserError: there is no such device, or it cannot do what is asked.
    """
    # Lightning has taken it from a cluster's variables, which number runs or tasks here; it sees one device.
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    ours = ("gradient_clip_val", "limit_train_batches")  # Lightning's unit is a group of batches
    settings = {key: value for key, value in config["trainer"].items() if key not in ours}
    settings["accelerator"] = accelerator(settings)
    if settings["precision"] == "16-mixed" and settings["accelerator"] == "cpu":
        raise UsageError("trainer.precision=16-mixed needs a GPU. On a CPU choose bf16-mixed or 32-true.")
    on_gpu = settings["accelerator"] == "gpu"
    settings |= {"devices": [ranks.local] if on_gpu else 1, "num_nodes": 1, "strategy": "auto"}
    nodes = config.get("logger", {}).values() if ranks.first else ()
    loggers = [build(node, save_dir=directory) for node in nodes if node]
    trainer: L.Trainer = build(
        settings,
        logger=loggers,
        callbacks=[
            StopWhenDiverged(),
            history,
            *([ProgressBar()] if ranks.first else []),
            *monitoring_callbacks(config, directory),
            *callbacks,
        ],
        # Not what Lightning takes from a cluster's variables: our launcher starts the processes.
        plugins=[WholeCheckpoints(writes=ranks.first), LightningEnvironment()],
        default_root_dir=directory,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return trainer


def monitoring_callbacks(config: Mapping[str, Any], directory: Path) -> list[L.Callback]:
    """Build what keeps the best epoch and stops early. Without validation data the last epoch is the best."""
    settings = config["callbacks"]
    monitor, folder = settings["monitor"], directory / "checkpoints"  # no monitor: the last epoch is tested
    mode = "max" if monitor == "val_accuracy" else "min"
    callbacks: list[L.Callback] = []
    if monitor and config["data"]["val_fraction"] > 0:
        callbacks.append(
            ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        )
    if settings["patience"] is not None:
        callbacks.append(
            EarlyStopping(monitor, settings["min_delta"], settings["patience"], mode=mode, verbose=True)
        )
    return callbacks
