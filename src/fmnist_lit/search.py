"""Searches a space of configs for the best validation accuracy, with Optuna; workers share one study."""

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import lightning as L
import optuna
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from fmnist_lit import app  # registers the resolvers that conf/ uses
from fmnist_lit.check import check
from fmnist_lit.checkpoints import digest
from fmnist_lit.config import (
    CONF,
    INCIDENTAL,
    decisive,
    differences,
    has_validation,
    leaves,
    origin,
    resolved,
)
from fmnist_lit.distributed import world_size
from fmnist_lit.errors import Diverged, UsageError
from fmnist_lit.files import locked, write_json, write_whole
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.overrides import as_meant, value_of
from fmnist_lit.run import run
from fmnist_lit.search_space import Search, overrides_of, suggest
from fmnist_lit.sweeps import key_of

log = logging.getLogger(__name__)

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


# What trials have to be short, quiet and beside one another: the experiment trains at full length, as usual.
OF_TRIALS_ALONE = (
    *(key for key in INCIDENTAL if not key.startswith("data.images.")),
    *("logger", "debug", "trainer", "data.train_subset"),
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps"),
    "trainer.target_tflop",
    *("trainer.max_time", "trainer.overfit_batches", "trainer.fast_dev_run", "trainer.num_sanity_val_steps"),
    *(f"trainer.limit_{split}_batches" for split in ("train", "val", "test", "predict")),
)
BEGUN, WRITTEN = "begun_with", "experiment"  # what a study keeps of itself


def compose_config(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], str]:
    """Compose and check a config: its values, the option chosen of each group, and the command.

    Raises:
        UsageError: it cannot be composed, or cannot work.
    """
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", list(as_meant(overrides)), return_hydra_config=True)
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


def train(search: Search, folder: Path, seed: int | None, trial: optuna.Trial) -> float:
    """Train what a trial chooses, and return the validation accuracy."""
    # Others' running trials count as poor. Each trial draws anew, so that workers may share a seed.
    number = None if seed is None else seed + trial.number
    trial.study.sampler = optuna.samplers.TPESampler(seed=number, constant_liar=True)
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
    search: Search, folder: Path, name: str, storage: str | Path, trials: int, seed: int | None, result: Path
) -> optuna.Study:
    """Run trials until the study has so many, all workers together.

    Args:
        folder: of the run directories, one for each trial.
        storage: an address that Optuna knows, or a file.
        trials: of the whole study, those pruned included.
        seed: of the sampler.
        result: the experiment that will be written.

    Raises:
        UsageError: a config cannot be composed, or cannot work; the study was begun with something else; or
            what the end needs is not there.
        UserError: a trial failed, and others would.
        Interrupted: a signal came.
    """
    config, _, _ = compose_config([*search.overrides, *overrides_of(search.start)])
    overrides = [item for item in search.overrides if key_of(item) not in INCIDENTAL]
    asked = dict(leaves(search._replace(overrides=overrides)._asdict())) | {"seed": seed}
    with locked(folder / "study.lock", f"Waiting for another worker of {name} ..."):
        study = optuna.create_study(
            storage=opened(storage),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
        begin(study, {"search": asked, "config": decisive(config)})
        require_free(study, folder, result)
        if search.start and not study.trials:
            study.enqueue_trial(search.start, skip_if_exists=True)
    while begun(study) < trials:
        study.optimize(partial(train, search, folder, seed), n_trials=1)
    return study


def begin(study: optuna.Study, now: Mapping[str, Any]) -> None:
    """Keep what a study is begun with, or hold it against that.

    Raises:
        UsageError: it was begun with something else.
    """
    now = json.loads(json.dumps(now))  # as the database has it
    before = study.user_attrs.get(BEGUN)
    if before is None and not study.trials:
        study.set_user_attr(BEGUN, now)
        return
    if before is None:
        said = ["it does not say what"]
    else:
        said = differences(before["search"], now["search"]) or differences(before["config"], now["config"])
    if said:
        raise UsageError(
            f"a study {study.study_name} was begun with something else: {'; '.join(said)}. "
            "Another one needs another name: --study NAME."
        )


def require_free(study: optuna.Study, folder: Path, result: Path) -> None:
    """Make sure that trials can have their folders, and that the experiment can be written at the end.

    Raises:
        UsageError: something of somebody else is there.
        OSError: nothing can be written there.
    """
    strange = [path for path in folder.iterdir() if path.name.isdecimal()]
    strange = [path for path in strange if int(path.name) >= len(study.trials)]
    if strange:
        raise UsageError(f"{strange[0]} is there, and no trial of this study. Say --study NAME, or move it.")
    plain = result.is_file() and not result.is_symlink()
    if os.path.lexists(result) and not (plain and digest(result) == study.user_attrs.get(WRITTEN)):
        raise UsageError(
            f"{result} is not what this study wrote, and would be lost. Say --study NAME, or move it."
        )
    result.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=result.parent):
        pass


def write_experiment(study: optuna.Study, search: Search, path: Path) -> None:
    """Write the best trial as an experiment, and keep in the study what was written."""
    header = (
        f"Found by scripts/tune.py: val accuracy {study.best_value:.4f}, trial {study.best_trial.number}."
    )
    content = experiment(search, study.best_params, header).encode()
    study.set_user_attr(WRITTEN, hashlib.sha256(content).hexdigest())
    write_whole(path, content)


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
    """Return the best trial as an experiment's config, which ``train.py experiment=...`` runs.

    What shortened or silenced the trials alone is left out, unless it was searched.
    """
    kept = {key_of(item): item for item in search.overrides if not of_trials_alone(key_of(item))}
    settings = kept | {key_of(item): item for item in overrides_of(best)}
    lines = ["# @package _global_", f"# {header}", "defaults:"]
    values = OmegaConf.create()
    for key, item in settings.items():
        if (CONF / key).is_dir():  # a group
            option = value_of(item)
            lines.append(f"  - override /{key}: {option if isinstance(option, str) else json.dumps(option)}")
        else:
            OmegaConf.update(values, key, value_of(item))
    return "\n".join([*lines, "  - _self_", "", OmegaConf.to_yaml(values)])


def of_trials_alone(key: str) -> bool:
    """Whether an override says how trials run, not what is trained."""
    return key in OF_TRIALS_ALONE or key.startswith(("logger.", "debug.", "callbacks.progress"))
