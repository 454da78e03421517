"""Searches a space of configs for the best validation accuracy, with Optuna; workers share one study."""

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import optuna
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from fmnist_lit import app  # registers the resolvers that conf/ uses
from fmnist_lit.check import check
from fmnist_lit.config import CONF, INCIDENTAL, has_validation, origin, resolved
from fmnist_lit.distributed import world_size
from fmnist_lit.errors import Diverged, UsageError
from fmnist_lit.files import write_json
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.run import run
from fmnist_lit.search_space import Search, overrides_of, suggest

log = logging.getLogger(__name__)

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def compose_config(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], str]:
    """Compose and check a config: its values, the option chosen of each group, and the command.

    Raises:
        UsageError: it cannot be composed, or cannot work.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", list(overrides), return_hydra_config=True)
        groups, command = origin(composed.hydra)
        config = resolved(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(app.message(error)) from error
    check(config)
    if not has_validation(config):
        raise UsageError("data.val_fraction=0: a search needs validation data.")
    if world_size(config) > 1:
        raise UsageError("trainer=ddp: a search trains on one device. Start a worker for each instead.")
    return config, groups, command


def report(trial: optuna.Trial, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Tell a trial an epoch's validation accuracy.

    Raises:
        TrialPruned: other trials were better at this epoch.
    """
    epoch = trainer.current_epoch + 1
    trial.report(float(trainer.callback_metrics["val_accuracy"]), epoch)
    if trial.should_prune():
        raise optuna.TrialPruned(f"hopeless after epoch {epoch}")


def train(search: Search, folder: Path, trial: optuna.Trial) -> float:
    """Train what a trial chooses, and return the validation accuracy."""
    chosen = overrides_of(suggest(trial, search.space))
    config, groups, command = compose_config([*search.overrides, *chosen])
    directory = folder / str(trial.number)
    directory.mkdir(parents=True)
    try:
        each_epoch = LambdaCallback(on_train_epoch_end=partial(report, trial))
        metrics = run(config, directory, groups, command, callbacks=[each_epoch])
    except Interrupted:
        trial.study.tell(trial, state=TrialState.FAIL)  # else it would count as going on
        raise
    except (Diverged, optuna.TrialPruned) as error:  # a rate at which training diverges is no better
        write_json(directory / "failure.json", {"reason": str(error)})
        log.info("trial %d: %s: %s", trial.number, " ".join(chosen), error)
        raise optuna.TrialPruned(str(error)) from error
    accuracy = float(metrics["val"]["accuracy"])
    log.info("trial %d: %s: val accuracy %.4f", trial.number, " ".join(chosen), accuracy)
    return accuracy


def optimize(
    search: Search, folder: Path, name: str, storage: str | Path, trials: int, seed: int | None
) -> optuna.Study:
    """Run trials until the study has so many, all workers together.

    Args:
        folder: of the run directories, one for each trial.
        storage: an address that Optuna knows, or a file.
        trials: of the whole study, those pruned included.
        seed: of the sampler; workers of one study should have different ones, or none.

    Raises:
        UsageError: a config cannot be composed, or cannot work.
        UserError: a trial failed, and others would.
        Interrupted: a signal came.
    """
    compose_config([*search.overrides, *overrides_of(search.start)])
    with FileLock(folder / "study.lock"):  # several workers may start at once
        study = optuna.create_study(
            storage=opened(storage),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
        if search.start and not study.trials:
            study.enqueue_trial(search.start, skip_if_exists=True)
    seed = None if seed is None else seed + len(study.trials)  # going on is not to begin again
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # others' trials count as poor
    while begun(study) < trials:
        study.optimize(partial(train, search, folder), n_trials=1)
    return study


def opened(storage: str | Path) -> optuna.storages.RDBStorage:
    """Open a database; a worker that is not heard of for two minutes is taken for dead.

    Raises:
        UsageError: it cannot be opened.
    """
    address, settings = storage, {}
    if isinstance(storage, Path):  # in an address ? # and % would mean something
        address = "sqlite:///study.db"
        settings["creator"] = partial(sqlite3.connect, storage.absolute(), check_same_thread=False)
    try:
        return optuna.storages.RDBStorage(
            str(address), engine_kwargs=settings, heartbeat_interval=30, grace_period=120
        )
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise UsageError(f"{storage}: {' '.join(str(error).split())}") from error


def begun(study: optuna.Study) -> int:
    """Count the trials that have ended or go on; those of a worker that was killed do not count."""
    optuna.storages.fail_stale_trials(study)
    return len(study.get_trials(deepcopy=False, states=COUNTED))


def experiment(search: Search, best: Mapping[str, Any], header: str) -> str:
    """Return the best trial as an experiment's config, which ``train.py experiment=...`` runs."""
    settings = dict(item.split("=", 1) for item in [*search.overrides, *overrides_of(best)])
    lines = ["# @package _global_", f"# {header}", "defaults:"]
    values = OmegaConf.create()
    for key, value in settings.items():
        if (CONF / key).is_dir():  # a group
            lines.append(f"  - override /{key}: {value}")
        elif key not in (*INCIDENTAL, "output_dir"):
            values.merge_with_dotlist([f"{key}={value}"])
    return "\n".join([*lines, "  - _self_", "", OmegaConf.to_yaml(values)])
