"""One run from a config: seed, build, fit, test, and the run directory that is all that is left of it."""

import fcntl
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import OmegaConf
from torch.optim import Optimizer

from fmnist_lit import provenance, tensorboard
from fmnist_lit.build import build
from fmnist_lit.checkpoints import PREVIOUS, ResumePoints, StopWhenDiverged, WholeCheckpoints, newest_whole
from fmnist_lit.classifier import Classifier
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.history import History, require_finite
from fmnist_lit.interrupt import Signals, own_signals
from fmnist_lit.models.compute import training_flop
from fmnist_lit.models.fast import prepare
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.layer_table import parameter_count
from fmnist_lit.progress import ProgressBar
from fmnist_lit.report.summary import summary
from fmnist_lit.storage import write_json, write_new

log = logging.getLogger(__name__)

FUSED = ("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW")
DEFAULT_THREADS = torch.get_num_threads()  # a sweep's jobs share this process and its setting


def run(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    resumed: bool = False,
    callbacks: Sequence[L.Callback] = (),
) -> dict[str, Any]:
    """Train, test and write everything into ``directory``.

    Args:
        config: resolved and checked.
        directory: of this run alone; it gets config.yaml, checkpoints/, history.csv, metrics.json and
            TensorBoard's events.
        choices: the option chosen of each config group.
        command: that starts the same run again.
        resumed: the directory holds this run already, which goes on from its last whole checkpoint.
        callbacks: what else is to be called in training.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: the run cannot start or cannot end well; the message says why.
        Interrupted: a signal came; ``resume`` goes on from there.
    """
    if not resumed:
        claim(directory, config)
    with alone(directory), own_signals() as signals:
        return train_and_test(config, directory, choices, command, signals, resumed, callbacks)


def train_and_test(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    signals: Signals,
    resumed: bool,
    callbacks: Sequence[L.Callback],
) -> dict[str, Any]:
    """Do what ``run`` says, in a directory that nobody else writes into."""
    quiet_lightning()
    torch.set_num_threads(config["threads"] or DEFAULT_THREADS)
    L.seed_everything(config["seed"], verbose=False)
    classifier = build_classifier(config)
    data = build_data(config)
    history = History(directory / "history.csv")
    resume_points = ResumePoints(directory / "checkpoints", config["callbacks"]["save_every_s"], signals)
    trainer = build_trainer(config, directory, history, resume_points, callbacks)
    log.info("Run directory: %s", directory)
    device = provenance.device_name(trainer.strategy.root_device)
    log.info("Device: %s", device)

    checkpoint = newest_whole(directory) if resumed else None
    if resumed:
        log.info("Resumed from %s", checkpoint or "the start: there is no whole checkpoint.")
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint)
    keep_last_as_best(directory)
    load_weights(classifier, directory / "checkpoints" / "best.ckpt")
    trainer.test(classifier, datamodule=data, verbose=False)

    metrics = {
        **final_figures(classifier),
        "epochs": len(history.rows),
        "seconds": resume_points.seconds,
        "images_per_second": history.images / history.steps_s,
        "parameters": parameter_count(classifier.model),
        "training_tflop": training_flop(classifier.model) * history.images / 1e12,
        "device": device,
        "seed": config["seed"],
        "choices": dict(choices),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": command,
    }
    check_loss(config, classifier, metrics)
    tensorboard.log_run(trainer, classifier, data, config, choices, metrics)
    write_json(directory / "metrics.json", metrics)  # last: a run that has it is finished
    log.info("%s", summary(directory, metrics))
    return metrics


def quiet_lightning() -> None:
    """Leave out what Lightning says to every run: devices, tips, and its own use of deprecated names."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=r"lightning\.")
    # A resumed run finds its own checkpoints, and its loader knows its place.
    warnings.filterwarnings("ignore", message=".*(exists and is not empty|dataloader is not resumable).*")
    # Nothing is logged in a step, so its interval does not matter; there may be no validation data.
    warnings.filterwarnings("ignore", message=".*(smaller than the logging interval|across ranks is zero).*")


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Store the config in the run directory, unless there already is a run."""
    try:
        write_new(directory / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode())
    except FileExistsError as error:
        raise UsageError(
            f"{directory} already holds a run. Name another folder, or leave hydra.run.dir out."
        ) from error


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep other processes out of a run directory; the lock ends with the process, however that ends.

    Raises:
        UsageError: another process runs here.
    """
    with (directory / "config.yaml").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{directory}: this run is going on, in another process.") from error
        yield


def build_classifier(config: Mapping[str, Any]) -> Classifier:
    """Build the model, draw its weights, and wrap it for training."""
    model = build(config["model"])
    initialize(model, **config["init"])
    return Classifier(
        prepare(model),
        optimizer=partial(build_optimizer, config),
        schedule=partial(build, config["schedule"]),
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        label_smoothing=config["label_smoothing"],
        weight_averaging=config["weight_averaging"],
        mirror_test=config["augment"]["flip"] > 0,  # a network that saw no mirror images knows none
    )


def build_data(config: Mapping[str, Any]) -> DataModule:
    """Build the data module."""
    data: DataModule = build(
        config["data"],
        seed=config["seed"],
        limit_train_batches=config["trainer"]["limit_train_batches"],
        augmentation=build(config["augment"]),
    )
    return data


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Build the optimizer, with one kernel for the whole step where PyTorch has one."""
    one_kernel = {"fused": True} if config["optim"]["_target_"] in FUSED else {}
    optimizer: Optimizer = build(config["optim"], parameters, **one_kernel)
    return optimizer


def build_trainer(
    config: Mapping[str, Any],
    directory: Path,
    history: History,
    resume_points: ResumePoints,
    callbacks: Sequence[L.Callback] = (),
) -> L.Trainer:
    """Build the trainer with its callbacks and loggers."""
    ours = ("gradient_clip_val", "limit_train_batches")  # Lightning's unit is a group of batches
    settings = {key: value for key, value in config["trainer"].items() if key not in ours}
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("trainer=gpu: PyTorch sees no CUDA device here. Choose trainer=auto or trainer=cpu.")
    if settings["accelerator"] == "auto":
        settings["accelerator"] = "gpu" if torch.cuda.is_available() else "cpu"
    if settings["precision"] == "16-mixed" and settings["accelerator"] == "cpu":
        raise UsageError("trainer.precision=16-mixed needs a GPU. On a CPU choose bf16-mixed or 32-true.")
    loggers = [build(node, save_dir=directory) for node in config.get("logger", {}).values() if node]
    trainer: L.Trainer = build(
        settings,
        logger=loggers,
        callbacks=[
            StopWhenDiverged(),
            history,
            ProgressBar(),
            *monitoring_callbacks(config, directory),
            *callbacks,
            resume_points,
        ],
        plugins=[WholeCheckpoints()],
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


def keep_last_as_best(directory: Path) -> None:
    """Take the last checkpoint where no validation data chose a best one; drop what only a resume needs."""
    best, last = (directory / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    if not best.exists():
        copy = best.with_suffix(".part")
        shutil.copyfile(last, copy)
        os.replace(copy, best)
    for leftover in (best.with_name(PREVIOUS), *best.parent.glob("*.part")):
        leftover.unlink(missing_ok=True)


def load_weights(classifier: Classifier, checkpoint: Path) -> None:
    """Load a checkpoint's weights. No code in it is run."""
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    classifier.load_state_dict(weights)


def final_figures(classifier: Classifier) -> dict[str, Any]:
    """Return accuracy and loss of each part, in evaluation mode with the checkpoint that is tested."""
    parts: dict[str, Any] = dict.fromkeys(("train", "val", "test"))
    for part, tally in classifier.tallies.items():
        figures = tally.figures()
        require_finite(f"the {part} loss of the best checkpoint", figures["loss"])
        parts[part] = {name: figures[name] for name in ("accuracy", "loss")}
    return parts


def check_loss(config: Mapping[str, Any], classifier: Classifier, metrics: Mapping[str, Any]) -> None:
    """Hold the training loss against its floor, if debug says so."""
    within = config["debug"]["loss_within"]
    if within is None:
        return
    floor, loss = float(classifier.model.loss_floor), metrics["train"]["loss"]  # type: ignore[arg-type]
    verdict = f"training loss {loss:.4f}, floor {floor:.4f}, allowed distance {within}"
    if loss - floor > within:
        raise UserError(f"the model did not learn its few images by heart: {verdict}.")
    log.info("Learnt by heart: %s.", verdict)
