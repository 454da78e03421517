"""One run from a config: seed, build, fit, test, and the run directory that is all that is left of it."""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from filelock import BaseFileLock, Timeout
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer

from fmnist_lit import distributed, elastic, provenance
from fmnist_lit.allocator import keep_freed_memory
from fmnist_lit.budget import computation, length_within_target
from fmnist_lit.build import TARGET_TFLOP, build, build_group
from fmnist_lit.callbacks import BestCheckpoint, History, ResumeCheckpoint
from fmnist_lit.checkpoints import LAST, AtomicCheckpointIO, latest_valid, load_best, require_same_run, settle
from fmnist_lit.classifier import FLIPPED, Classifier
from fmnist_lit.config import MAY_CHANGE, ORIGIN, decisive, read_config, read_origin
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.dataset import CLASSES, Images
from fmnist_lit.errors import Diverged, Occupied, UsageError, UserError
from fmnist_lit.files import (
    LOCK,
    locked,
    remove_parts,
    require_all_inside,
    sync_folder,
    write_json,
    write_new,
    write_whole,
)
from fmnist_lit.finetune import freeze, start_from
from fmnist_lit.interrupt import Signals, own_signals
from fmnist_lit.logs import logged_to
from fmnist_lit.metrics import try_metric
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.layer_table import layer_table, parameter_count
from fmnist_lit.models.speedups import prepare
from fmnist_lit.run_files import keep_overrides
from fmnist_lit.schedules import build_schedule
from fmnist_lit.summary import start_summary, summary
from fmnist_lit.tensorboard import FinalEvents
from fmnist_lit.threads import free_threads
from fmnist_lit.trainer import (
    accelerator,
    build_callbacks,
    build_trainer,
    quiet_lightning,
    steps_per_execution,
)

log = logging.getLogger(__name__)

FUSED = ("torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW")
DEFAULT_THREADS = torch.get_num_threads()  # a sweep's jobs share this process and its setting


def run(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    resumed: bool = False,
    claimed: bool = False,
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
        claimed: by the process that started this one.
        callbacks: what else is to be called in training.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: the run cannot start or cannot end well; the message says why.
        Interrupted: a signal came; ``resume`` goes on from there.
    """
    directory = Path(os.path.realpath(directory))  # the one name that Lightning and we compare
    require_all_inside(directory)
    rank = distributed.rank(config)
    with ExitStack() as opened:
        signals = opened.enter_context(own_signals(patient=distributed.is_started(config)))
        images: Images = build(config["data"]["images"], "data.images", fetch=not resumed)
        is_new, busy = not resumed and not claimed, ""
        if is_new:  # what is refused leaves the directory free
            named = build_callbacks(config, directory=directory, signals=signals, computed=computed(config))
            with_steps(config, build_classifier(config, images.classes), images, [*callbacks, *named])
            config, busy = with_threads(config)
        whole = {**config, ORIGIN: {"command": command, "choices": dict(choices)}}
        if is_new and rank == 0:
            claim(directory, whole)
        if rank == 0:
            lock = opened.enter_context(alone(directory))
            opened.enter_context(logged_to(directory / "train.log"))
            if resumed:
                remove_parts(directory)
                remove_parts(directory / ".hydra")
                keep_changes(directory, whole)
            (directory / "failure.json").unlink(missing_ok=True)  # of an earlier attempt
            keep_overrides(directory, command)
            if busy:
                log.info("%s", busy)
        if distributed.world_size(config) > 1 and not distributed.is_started(config):
            assert not callbacks, "the processes know nothing of them"
            lock.release()  # the first process will hold it
            elastic.launch(config, directory, resumed)
            return dict(json.loads((directory / "metrics.json").read_bytes()))
        return train_and_test(config, directory, choices, command, signals, resumed, callbacks, images)


def with_steps(
    config: Mapping[str, Any], classifier: Classifier, images: Images, callbacks: Sequence[L.Callback]
) -> dict[str, Any]:
    """Return the config with the steps that a target of computation allows, if there is one.

    Raises:
        UsageError: it cannot be.
    """
    flags = config["trainer"]
    if not flags.get(TARGET_TFLOP):
        return dict(config)
    data = build_data(config, images=images, outputs=classifier.outputs)
    data.setup()
    optimizer = classifier.make_optimizer(classifier.model.parameters())
    images_of_epoch = len(data.splits["train"][1])
    length = length_within_target(
        flags, classifier.model, optimizer, images_of_epoch, config["data"]["batch_size"], callbacks
    )
    return {**config, "trainer": {**flags, **length}}


def most_threads(config: Mapping[str, Any]) -> int:
    """Return the CPU threads of each process on a machine that does nothing else."""
    here: int = distributed.world_size(config) // config["trainer"].get("num_nodes", 1)
    return max(1, DEFAULT_THREADS // here)


def with_threads(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Choose the threads where the user did not: a resume takes the same, for the bits depend on them.

    Returns:
        The config with the choice, and what to say of it if other programs keep the cores busy.
    """
    if config["threads"]:
        return dict(config), ""
    most = most_threads(config)
    chosen = free_threads(most)
    said = f"CPU threads: {chosen} of {most}, for other programs keep the cores busy (threads={most}: all)."
    return {**config, "threads": chosen}, said if chosen < most else ""


def train_and_test(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    signals: Signals,
    resumed: bool,
    callbacks: Sequence[L.Callback],
    images: Images,
) -> dict[str, Any]:
    """Do what ``run`` says, as one of the processes that train together."""
    quiet_lightning()
    keep_freed_memory()
    compiled = config["compile"] and is_worth_compiling(config)
    if compiled:
        torch.compiler.reset()  # of one function a process keeps but a few versions, a sweep's jobs make more
    processes = distributed.world_size(config)
    torch.set_num_threads(config["threads"] or most_threads(config))
    L.seed_everything(config["seed"], verbose=False)
    code = {"versions": provenance.versions(), "commit": provenance.commit()}  # while it is what runs
    named = build_callbacks(config, directory=directory, signals=signals, computed=computed(config))
    checkpoint, kept = latest_valid(directory) if resumed else (None, {})
    # A run keeps its number: what it has behind it is counted in calls.
    steps = kept.get("steps_per_execution") or steps_per_execution(config, [*callbacks, *named])
    classifier = build_classifier(config, images.classes, steps, is_new=checkpoint is None, compiled=compiled)
    data = build_data(config, steps, images, classifier.outputs)
    history = History(directory / "history.csv")
    limited = with_steps(config, classifier, images, [*callbacks, *named])
    trainer = build_trainer(limited, directory, [*callbacks, *named], history)
    device = provenance.device_name(trainer.strategy.root_device)
    device += f", {processes} processes" if processes > 1 else ""
    if trainer.is_global_zero:
        log.info("Run directory: %s", directory)
        log.info("Device: %s", device)
        if config["compile"] and not compiled:
            log.info("compile=true: not on a CPU, where it is no faster.")
        if resumed:
            log.info("Resumed from %s", checkpoint or "the start: there is no whole checkpoint.")
        for line in classifier.about:
            log.info("%s", line)

    if checkpoint is not None:
        require_same_run(checkpoint, kept, computed(config), trainer.callbacks)  # type: ignore[attr-defined]
        kept.clear()  # Lightning loads it again
    fit(trainer, classifier, data, directory, checkpoint)
    events = FinalEvents(config, classifier.outputs)
    trainer.callbacks.append(events)  # type: ignore[attr-defined] # now, for it costs a little in each step
    trainer.test(classifier, datamodule=data, verbose=False)

    metrics = {
        **final_metrics(trainer),
        "epochs": len(history.rows),
        "seconds": next(c.seconds for c in named if isinstance(c, ResumeCheckpoint)),
        "images_per_second": history.all_images / history.steps_s,
        "parameters": parameter_count(classifier.model),
        "training_tflop": computation(trainer, classifier.model, history.all_images) / 1e12,
        "classes": list(images.classes),
        "statistics": list(images.statistics),
        "device": device,
        "seed": config["seed"],
        "choices": dict(choices),
        **code,
        "date": provenance.today(),
        "command": command,
    }
    check_loss(config, classifier, metrics)
    if trainer.is_global_zero:
        events.write(trainer, classifier, metrics)
        write_json(directory / "metrics.json", metrics)  # last: a run that has it is finished
        log.info("%s", summary(directory, metrics))
    return metrics


def is_worth_compiling(config: Mapping[str, Any]) -> bool:
    """Whether a GPU trains; on a CPU, in bf16-mixed, some networks' gradients would be no numbers."""
    return accelerator(config["trainer"]) != "cpu"


def fit(
    trainer: L.Trainer, classifier: Classifier, data: DataModule, directory: Path, checkpoint: Path | None
) -> None:
    """Train, from a checkpoint on if there is one, then load the weights that are tested."""
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint)
    except MisconfigurationException as error:  # of one of Lightning's callbacks, say
        raise UserError(" ".join(str(error).split())) from error
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        log.info("Tested: the weights after step %d; fast_dev_run keeps no others.", trainer.global_step)
        return
    folder = directory / "checkpoints"
    best = [one for one in trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)]
    averaged = any(isinstance(one, StochasticWeightAveraging) for one in trainer.callbacks)  # type: ignore[attr-defined]
    chosen = any(one.best_model_path for one in best) and not averaged
    if averaged:
        trainer.save_checkpoint(folder / LAST)  # it has put the average in its place
    if trainer.is_global_zero:
        settle(folder, chosen)
    trainer.strategy.barrier()
    files = trainer.strategy.checkpoint_io
    assert isinstance(files, AtomicCheckpointIO)
    named = files.best if chosen and trainer.is_global_zero else None
    loaded = load_best(folder, named)
    classifier.load_state_dict(loaded["state_dict"])
    if averaged:
        log.info("Tested: the average of StochasticWeightAveraging.")
        return
    log.info(
        "%s", tested(loaded, best[0] if best else None, chosen, trainer.global_step, classifier.validated)
    )


def tested(
    checkpoint: Mapping[str, Any], best: BestCheckpoint | None, chosen: bool, steps: int, validated: bool
) -> str:
    """Say which weights are tested, and why those.

    Args:
        checkpoint: that holds them.
        best: what was to choose them, if a metric was.
        chosen: it did.
        steps: of the whole run.
        validated: the last epoch was.
    """
    where = f"of epoch {checkpoint['epoch'] + 1} (step {checkpoint['global_step']} of {steps})"
    if best is None or not best.monitor:
        return f"Tested: the last weights, {where}; no metric chooses others."
    if not chosen:
        return f"Tested: the last weights, {where}; {best.monitor} was never logged."
    line = f"Tested: the weights {where}, the best {best.monitor}: {best.best_model_score:.4f}."
    left = best.monitor.startswith("val") and not validated
    return line + (" The last epoch ended without validation; its weights are left out." if left else "")


def computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a resume may not change."""
    return {key: value for key, value in decisive(config).items() if key not in MAY_CHANGE}


def claim(directory: Path, config: Mapping[str, Any]) -> None:
    """Store the config in the run directory, unless there already is a run.

    Nothing is written before. All that a resume needs is in one file, which is there whole or not at all.
    """
    try:
        write_new(directory / "config.yaml", as_yaml(config))
    except FileExistsError as error:
        raise Occupied(
            f"{directory} already holds a run. Name another folder, or leave hydra.run.dir out."
        ) from error
    for folder in directory.parents[:2]:  # new ones, as a rule
        sync_folder(folder)


def keep_changes(directory: Path, config: Mapping[str, Any]) -> None:
    """Store what a resume changes, before anybody reads it; nothing else is ever changed."""
    now = {key: value for key, value in config.items() if key != ORIGIN}
    asked = read_origin(directory)[1] != config[ORIGIN]["command"]
    if asked and computed(read_config(directory)) == computed(now):
        write_whole(directory / "config.yaml", as_yaml(config))
    (directory / "metrics.json").unlink(missing_ok=True)  # of a run that is to be longer


def as_yaml(config: Mapping[str, Any]) -> bytes:
    """Return a config as the content of a file; an object that is there twice gets no alias."""
    apart = json.loads(json.dumps(config))
    text: str = yaml.safe_dump(apart, sort_keys=False, allow_unicode=True)
    return text.encode()


@contextmanager
def alone(directory: Path) -> Iterator[BaseFileLock]:
    """Keep other processes out of a run directory; the lock ends with the process, if not before.

    Raises:
        Occupied: another process runs here.
    """
    try:
        with locked(directory / LOCK) as lock:
            yield lock
    except Timeout as error:
        raise Occupied(f"{directory}: this run is going on, in another process.") from error


def build_classifier(
    config: Mapping[str, Any],
    classes: Sequence[str] = CLASSES,
    steps: int = 1,
    is_new: bool = True,
    compiled: bool = False,
) -> Classifier:
    """Build the model, draw its weights, and wrap it for training.

    Args:
        classes: their names.
        is_new: no checkpoint of the run itself is going to be loaded.
        compiled: as ``Classifier`` takes it.

    Raises:
        UsageError: the model does not fit the classes, or the weights that it is to start from.
    """
    model = build(config["model"], "model", classes=len(classes))
    outputs = count_outputs(model)
    initialize(model, **config["init"])
    if outputs < len(classes):
        raise UsageError(f"model: it has {outputs} outputs, and data.images {len(classes)} classes.")
    start = [start_from(model, config["init_from"])] if config["init_from"] and is_new else []
    metrics = build_group(config, "metrics", classes=outputs)
    for name, metric in metrics.items():
        try_metric(metric, name, outputs)
    layers = layer_table(model)  # in the order of its author, before it is prepared
    model = prepare(model)
    still = freeze(model, config["freeze"])
    classifier = Classifier(
        model,
        classes=classes,
        outputs=outputs,
        about=[start_summary(config, layers, parameter_count(model)), *start],
        still=still,
        optimizer=partial(build_optimizer, config),
        schedule=partial(build_schedule, config["schedule"], metrics=config["metrics"]),
        metrics=metrics,
        label_smoothing=config["label_smoothing"],
        ema_decay=config["ema_decay"],
        # A network that saw no mirror images knows none.
        tta_flip=bool((config["augment"].get("affine") or {}).get("flip")),
        steps_per_execution=steps,
        compiled=compiled,
        log_test=False,  # FinalEvents does
        gradient_clip_val=config["trainer"].get("gradient_clip_val"),
        gradient_clip_algorithm=config["trainer"].get("gradient_clip_algorithm"),
    )
    if config["trainer"].get("precision") == "64-true":
        classifier.double()  # Lightning does so too late: it loads a checkpoint before, digits are lost
    return classifier


def count_outputs(model: torch.nn.Module) -> int:
    """Count the outputs of a model that was just built.

    Raises:
        UsageError: its output is no row for an image.
    """
    training = model.training
    with torch.no_grad():
        output = model.eval()(torch.zeros(1, 1, 28, 28))
    model.train(training)
    if output.dim() != 2:
        raise UsageError(
            f"model: an image gives {tuple(output.shape)}; it must give a number for each class."
        )
    return int(output.shape[1])


def build_data(
    config: Mapping[str, Any], steps: int = 1, images: Images | None = None, outputs: int = len(CLASSES)
) -> DataModule:
    """Build the data module, with images that were read already if there are any.

    Args:
        outputs: of the model, for what mixes labels.
    """
    changes = build_group(config, "augment", classes=outputs).values()
    data: DataModule = build(
        {key: value for key, value in config["data"].items() if key != "images"},
        "data",
        images=images or build(config["data"]["images"], "data.images"),
        seed=config["seed"],
        augmentations=[change for change in changes if change],  # but those that change nothing
        steps_per_execution=steps,
        rank=distributed.rank(config),
        world_size=distributed.world_size(config),
    )
    return data


def build_optimizer(config: Mapping[str, Any], parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Build the optimizer, with one kernel for the whole step where PyTorch has one."""
    one_kernel = config["optim"]["_target_"] in FUSED and config["trainer"].get("precision") != "16-mixed"
    facts: dict[str, Any] = {"fused": True} if one_kernel else {}
    optimizer: Optimizer = build(config["optim"], "optim", parameters, **facts)
    return optimizer


def final_metrics(trainer: L.Trainer) -> dict[str, Any]:
    """Return what was logged of each split, in evaluation mode with the checkpoint that is tested.

    Raises:
        Diverged: a loss is no number.
    """
    splits: dict[str, Any] = dict.fromkeys(("train", "val", "test"))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    for split in (FLIPPED, *splits):
        names = [name for name in logged if name.startswith(f"{split}_")]
        metrics = {name.removeprefix(f"{split}_"): logged.pop(name) for name in names}
        metrics.pop("loss_sum", None)  # of batches of another size than in training
        if metrics:
            splits[split] = metrics
            if not math.isfinite(metrics["loss"]):
                raise Diverged(
                    f"the {split} loss of the tested checkpoint is {metrics['loss']}: training diverged. "
                    "Try a lower learning rate: optim.lr=..."
                )
    return splits


def check_loss(config: Mapping[str, Any], classifier: Classifier, metrics: Mapping[str, Any]) -> None:
    """Hold the training loss against its floor, if debug says so."""
    within = config["debug"]["loss_within"]
    if within is None:
        return
    floor, loss = float(getattr(classifier.model, "loss_floor", 0.0)), metrics["train"]["loss"]
    verdict = f"training loss {loss:.4f}, floor {floor:.4f}, allowed distance {within}"
    if loss - floor > within:
        raise UserError(f"the model did not learn its few images by heart: {verdict}.")
    log.info("Learnt by heart: %s.", verdict)
