"""Searches a space of configs for the best validation accuracy, with Optuna; workers share one study."""

import hashlib
import json
import logging
import os
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
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pydantic import BaseModel
from yaml import YAMLError

from fmnist_lit import app  # registers the resolvers that conf/ uses
from fmnist_lit.build import RULES, checked
from fmnist_lit.check import check
from fmnist_lit.checkpoints import digest
from fmnist_lit.config import CONF, INCIDENTAL, decisive, has_validation, leaves, origin, resolved
from fmnist_lit.distributed import world_size
from fmnist_lit.errors import Diverged, UsageError, choices
from fmnist_lit.files import locked, write_json, write_whole
from fmnist_lit.overrides import as_meant, as_override, value_of
from fmnist_lit.run import run
from fmnist_lit.sweeps import begin_or_go_on, key_of

log = logging.getLogger(__name__)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
SPACE_SYNTAX = "{low, high} are numbers, with log or step if you like; or {choices: [...]}"
WRITTEN = "experiment"  # what a study keeps of itself: the digest of what it wrote
# What trials have to be short, quiet and beside one another: the experiment trains at full length, as usual.
OF_TRIALS_ALONE = (
    *(key for key in INCIDENTAL if not key.startswith("data.images.")),
    *("logger", "debug", "trainer", "data.train_subset"),
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps"),
    "trainer.target_tflop",
    *("trainer.max_time", "trainer.overfit_batches", "trainer.fast_dev_run", "trainer.num_sanity_val_steps"),
    *(f"trainer.limit_{split}_batches" for split in ("train", "val", "test", "predict")),
)


class Search(BaseModel):
    """What is searched.

    Args:
        overrides: of every trial.
        start: values of the first trial.
        space: what each key may be, as Optuna's distributions take it.
    """

    model_config = RULES

    overrides: list[str] = []
    start: dict[str, Any] = {}
    space: dict[str, Any] = {}


def read_search(path: Path, further: Sequence[str] = ()) -> Search:
    """Read a search space.

    Args:
        further: overrides of the command line, after those of the file.

    Raises:
        UsageError: the file is missing or says what cannot be; the message names the key.
    """
    if not path.is_file():
        known = [str(file.relative_to(CONF.parent)) for file in (CONF / "search").glob("*.yaml")]
        raise UsageError(f"{path}: no such file. {choices(str(path), known)}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except YAMLError as error:
        raise UsageError(f"{path}: no YAML: {' '.join(str(error).split())}") from error
    given = content.items() if isinstance(content, dict) else ()
    parts = {str(key): value for key, value in given if value is not None}  # a heading with nothing below it
    search = Search(**checked(Search, parts, f"{path}: "))
    if not search.space:
        raise UsageError(f"{path}: it has no space to search: of each key {SPACE_SYNTAX}.")
    search.overrides += further
    for override in search.overrides:
        check_override(override)
    for key in search.start.keys() - search.space.keys():
        raise UsageError(f"{path}: start: {key} is not in the space. {choices(key, search.space)}")
    search.overrides = list(as_meant(search.overrides))
    return search


def check_override(override: str) -> None:
    """Check what every trial has: it must fit into the experiment that comes out."""
    key, equals, _ = override.partition("=")
    if not equals or not key[:1].isalpha() or key.partition("/")[0] in ("experiment", "sweep", "resume"):
        raise UsageError(f"{override}: a search takes key=value, of any key but experiment and sweep.")
    if key.startswith("hydra") or "@" in key or key in ("name", "output_dir"):
        raise UsageError(f"{override}: a trial is named and placed by its study: --study, --output-dir.")


def distribution(key: str, kind: Any) -> BaseDistribution:
    """Return what a key's values are drawn from.

    Raises:
        UsageError: Optuna has no such distribution.
    """
    given = kind if isinstance(kind, dict) else {}
    whole = all(type(given.get(end)) is int for end in ("low", "high"))
    make = CategoricalDistribution if "choices" in given else IntDistribution if whole else FloatDistribution
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"space: {key}: {SPACE_SYNTAX}. Here {error}") from error


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Return chosen values as the command line says them."""
    return [as_override(key, value) for key, value in values.items()]


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


def train(search: Search, folder: Path, trial: optuna.Trial) -> float:
    """Train what a trial chose, and return the validation accuracy.

    Raises:
        TrialPruned: it was hopeless, or diverged: a rate at which training does is no better.
    """
    chosen = overrides_of(trial.params)
    config, groups, command = compose_config([*search.overrides, *chosen])
    directory = folder / str(trial.number)
    directory.mkdir(parents=True)
    try:
        each_epoch = LambdaCallback(on_train_epoch_end=partial(report, trial))
        metrics = run(config, directory, groups, command, callbacks=[each_epoch])
    except (Diverged, optuna.TrialPruned) as error:
        write_json(directory / "failure.json", {"reason": str(error)})
        log.info("trial %d: %s: %s", trial.number, " ".join(chosen), error)
        raise optuna.TrialPruned(str(error)) from error
    accuracy = float(metrics["val"]["accuracy"])
    log.info("trial %d: %s: val accuracy %.4f", trial.number, " ".join(chosen), accuracy)
    return accuracy


def optimize(search: Search, folder: Path, name: str, trials: int, result: Path) -> optuna.Study:
    """Run trials until so many of the study are complete or pruned, all workers together.

    Args:
        folder: of the study and of the run directories, one for each trial.
        trials: of the whole study.
        result: the experiment that will be written.

    Raises:
        UsageError: a config cannot be composed, or cannot work; the study was begun with something else; or
            what the end needs is not there.
        UserError: a trial failed, and others would.
        Interrupted: a signal came.
    """
    space = {key: distribution(key, kind) for key, kind in search.space.items()}
    config, _, _ = compose_config([*search.overrides, *overrides_of(search.start)])
    overrides = [item for item in search.overrides if key_of(item) not in INCIDENTAL]
    asked = dict(leaves(search.model_dump(exclude={"overrides"})))
    folder.mkdir(parents=True, exist_ok=True)  # now that nothing is wrong with the search
    with locked(folder / "study.lock", f"Waiting for another worker of {name} ..."):
        begin_or_go_on(folder / "study.json", f"the study {name}", overrides, asked | decisive(config))
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder.absolute() / "study.log"))),
            sampler=optuna.samplers.TPESampler(constant_liar=True),  # others' running trials count as poor
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
        require_free(study, folder, result)
        if search.start and not study.trials:
            study.enqueue_trial(search.start)
    while len(study.get_trials(deepcopy=False, states=ENDED)) < trials:
        trial = study.ask(space)
        try:
            study.tell(trial, train(search, folder, trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)  # else it would count as going on
            raise
    return study


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
