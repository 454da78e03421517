"""One run from a config: seed, build, fit, test, and the run directory that is all that is left of it."""

import json
import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import Optimizer

from fmnist_lit import provenance, tensorboard
from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.build import build
from fmnist_lit.checkpoints import (
    ResumePoints,
    WholeCheckpoints,
    load_best,
    newest_whole,
    require_same_run,
    settle,
)
from fmnist_lit.classifier import Classifier
from fmnist_lit.config import ORIGIN
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.images import Images
from fmnist_lit.errors import Occupied, UserError
from fmnist_lit.history import History, require_finite
from fmnist_lit.interrupt import Signals, own_signals
from fmnist_lit.logs import logged_to
from fmnist_lit.models.compute import training_flop
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.layer_table import parameter_count
from fmnist_lit.models.speedups import prepare
from fmnist_lit.ranks.exchange import ALONE, Ranks
from fmnist_lit.ranks.launcher import train_on_ranks
from fmnist_lit.report.summary import summary
from fmnist_lit.storage import (
    remove_parts,
    require_all_inside,
    sync_folder,
    try_lock,
    write_json,
    write_new,
    write_whole,
)
from fmnist_lit.sweeps import decisive
from fmnist_lit.trainer import build_trainer, quiet_lightning

log = logging.getLogger(__name__)

# What a resume may change: it trains longer, or on other devices.
MAY_CHANGE = ("trainer.max_epochs", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
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
    directory = Path(os.path.realpath(directory))  # the one name that Lightning and we compare
    require_all_inside(directory)
    images = None
    if not resumed:
        images = build(config["data"]["images"])  # first: what is refused leaves the directory free
        claim(directory, {**config, ORIGIN: {"command": command, "choices": dict(choices)}})
    several = config["trainer"]["devices"] * config["trainer"]["num_nodes"] > 1
    with alone(directory) as lock, own_signals() as signals, logged_to(directory / "train.log"):
        keep_overrides(directory, command)
        if resumed:
            for folder in (directory, directory / ".hydra"):
                remove_parts(folder)
        if several:
            assert not callbacks, "ranks know nothing of them"
            return train_on_ranks(config, directory, choices, command, signals, resumed, lock)
        return train_and_test(config, directory, choices, command, signals, resumed, callbacks, images=images)


def train_and_test(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    signals: Signals,
    resumed: bool,
    callbacks: Sequence[L.Callback],
    ranks: Ranks = ALONE,
    images: Images | None = None,
) -> dict[str, Any]:
    """Do what ``run`` says, in a directory that only the first of the ranks writes into."""
    quiet_lightning()
    keep_freed_memory()
    torch.set_num_threads(config["threads"] or max(1, DEFAULT_THREADS // config["trainer"]["devices"]))
    L.seed_everything(config["seed"], verbose=False)
    classifier = build_classifier(config, ranks)
    data = build_data(config, ranks, images)
    history = History(directory / "history.csv" if ranks.first else None)
    save_every_s = config["callbacks"]["save_every_s"]
    checkpoints = directory / "checkpoints"
    resume_points = ResumePoints(checkpoints, save_every_s, signals, ranks, computed(config))
    trainer = build_trainer(config, directory, history, [*callbacks, resume_points], ranks)
    log.info("Run directory: %s", directory)
    device = provenance.device_name(trainer.strategy.root_device)
    device += f", {ranks.count} ranks" if ranks.count > 1 else ""
    log.info("Device: %s", device)

    checkpoint = ranks.gather(newest_whole(directory) if resumed and ranks.first else None)[0]
    if resumed:
        log.info("Resumed from %s", checkpoint or "the start: there is no whole checkpoint.")
    files, all_callbacks = trainer.strategy.checkpoint_io, trainer.callbacks  # type: ignore[attr-defined]
    assert isinstance(files, WholeCheckpoints)
    if checkpoint is not None:
        require_same_run(checkpoint, computed(config), all_callbacks)
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint)
    if ranks.first:
        settle(checkpoints, chosen=any(isinstance(each, ModelCheckpoint) for each in all_callbacks))
    ranks.wait()
    best = load_best(checkpoints, files.best if ranks.first else None)
    classifier.load_state_dict(best["state_dict"])
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
    if not ranks.first:
        return metrics
    tensorboard.log_run(trainer, classifier, data, config, choices, metrics)
    write_json(directory / "metrics.json", metrics)  # last: a run that has it is finished
    log.info("%s", summary(directory, metrics))
    return metrics


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a resume may not change."""
    return {key: value for key, value in decisive(config).items() if key not in MAY_CHANGE}


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Store the config in the run directory, unless there already is a run.

    Nothing is written before. All that a resume needs is in one file, which is there whole or not at all.
    """
    apart = json.loads(json.dumps(config))  # an object that is there twice would get an alias
    try:
        write_new(
            directory / "config.yaml", yaml.safe_dump(apart, sort_keys=False, allow_unicode=True).encode()
        )
    except FileExistsError as error:
        raise Occupied(
            f"{directory} already holds a run. Name another folder, or leave hydra.run.dir out."
        ) from error
    for folder in directory.parents[:2]:  # new ones, as a rule
        sync_folder(folder)


def keep_overrides(directory: Path, command: str) -> None:
    """Write a run's overrides where Hydra's users look for them."""
    file = directory / ".hydra" / "overrides.yaml"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        write_whole(file, yaml.safe_dump(shlex.split(command)[2:], allow_unicode=True).encode())


@contextmanager
def alone(directory: Path) -> Iterator[int]:
    """Keep other processes out of a run directory; the lock ends with the process, however that ends.

    Yields:
        The lock's file descriptor; it lasts as long as any process that inherits it.

    Raises:
        Occupied: another process runs here.
    """
    with (directory / "config.yaml").open("r+") as file:
        if not try_lock(file):
            raise Occupied(f"{directory}: this run is going on, in another process.")
        yield file.fileno()


def build_classifier(config: Mapping[str, Any], ranks: Ranks = ALONE) -> Classifier:
    """Build the model, draw its weights, and wrap it for training."""
    model = build(config["model"])
    initialize(model, **config["init"])
    classifier = Classifier(
        prepare(model),
        optimizer=partial(build_optimizer, config),
        schedule=partial(build, config["schedule"]),
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        label_smoothing=config["label_smoothing"],
        weight_averaging=config["weight_averaging"],
        mirror_test=config["augment"]["flip"] > 0,  # a network that saw no mirror images knows none
        ranks=ranks,
    )
    if config["trainer"]["precision"] == "64-true":
        classifier.double()  # Lightning does so too late: it loads a checkpoint before, digits are lost
    return classifier


def build_data(config: Mapping[str, Any], ranks: Ranks = ALONE, images: Images | None = None) -> DataModule:
    """Build the data module, with images that were read already if there are any."""
    data: DataModule = build(
        config["data"] if images is None else {**config["data"], "images": images},
        seed=config["seed"],
        limit_train_batches=config["trainer"]["limit_train_batches"],
        augmentation=build(config["augment"]),
        share=ranks.share if ranks.count > 1 else None,
    )
    return data


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Build the optimizer, with one kernel for the whole step where PyTorch has one."""
    one_kernel = {"fused": True} if config["optim"]["_target_"] in FUSED else {}
    optimizer: Optimizer = build(config["optim"], parameters, **one_kernel)
    return optimizer


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
