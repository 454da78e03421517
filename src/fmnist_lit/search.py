"""Searches a space of configs for the best validation accuracy, with Optuna; workers share one study."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import optuna
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fmnist_lit import launch  # registers the resolvers that conf/ uses
from fmnist_lit.config import INCIDENTAL, check, origin, resolved
from fmnist_lit.errors import UsageError, UserError, choices
from fmnist_lit.run import run
from fmnist_lit.storage import write_json

log = logging.getLogger(__name__)

CONF = Path(__file__).parents[2] / "conf"
RANGE, CHOICES = {"low", "high", "log", "step"}, {"choices"}
ENDED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


class Search(NamedTuple):
    """What is searched: overrides of every trial, the first trial's values, and what each key may be."""

    overrides: list[str]
    start: dict[str, Any]
    space: dict[str, dict[str, Any]]


def read_search(path: Path, further: Sequence[str] = ()) -> Search:
    """Read a search space.

    Args:
        further: overrides of the command line, after those of the file.

    Raises:
        UsageError: the file is missing or says what cannot be; the message names the key.
    """
    if not path.is_file():
        known = sorted(str(file.relative_to(CONF.parent)) for file in (CONF / "search").glob("*.yaml"))
        raise UsageError(f"{path}: no such file. {choices(str(path), known)}")
    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict) or not content.keys() <= {"overrides", "start", "space"}:
        raise UsageError(f"{path}: its keys are overrides, start and space.")
    space = content.get("space") or {}
    if not space:
        raise UsageError(f"{path}: it has no space to search.")
    for key, kind in space.items():
        check_kind(str(key), kind)
    start = content.get("start") or {}
    for key in start:
        if key not in space:
            raise UsageError(
                f"{path}: start: {key} is not in the space. {choices(str(key), map(str, space))}"
            )
    return Search([*(content.get("overrides") or []), *further], start, space)


def check_kind(key: str, kind: Any) -> None:
    """Check what a key may be."""
    keys = set(kind) if isinstance(kind, dict) else set()
    if keys == CHOICES and isinstance(kind["choices"], list) and kind["choices"]:
        return
    if not {"low", "high"} <= keys <= RANGE:
        raise UsageError(f"space: {key}: {{low, high}}, with log or step if you like; or {{choices: [...]}}.")
    if not kind["low"] <= kind["high"] or (kind.get("log") and (kind["low"] <= 0 or "step" in kind)):
        raise UsageError(f"space: {key}: low is to be below high; with log above 0, and without step.")


def suggest(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Let a trial choose a value of each key."""
    values: dict[str, Any] = {}
    for key, kind in space.items():
        if "choices" in kind:
            values[key] = trial.suggest_categorical(key, kind["choices"])
        elif type(kind["low"]) is int and type(kind["high"]) is int:
            step = kind.get("step", 1)
            values[key] = trial.suggest_int(
                key, kind["low"], kind["high"], step=step, log=kind.get("log", False)
            )
        else:
            step = kind.get("step")
            values[key] = trial.suggest_float(
                key, kind["low"], kind["high"], step=step, log=kind.get("log", False)
            )
    return values


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
        raise UsageError(launch.message(error)) from error
    check(config)
    if config["data"]["val_fraction"] == 0:
        raise UsageError("data.val_fraction=0: a search needs validation data.")
    if config["trainer"]["strategy"] == "ddp":
        raise UsageError("trainer=ddp: a search trains on one device. Start a worker for each instead.")
    return config, groups, command


class Pruning(L.Callback):
    """Tells a trial each epoch's validation accuracy and ends the run if that is hopeless."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report.

        Raises:
            TrialPruned: other trials were better at this epoch.
        """
        self.trial.report(float(trainer.callback_metrics["val_accuracy"]), trainer.current_epoch + 1)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"hopeless after epoch {trainer.current_epoch + 1}")


def objective(search: Search, folder: Path) -> Callable[[optuna.Trial], float]:
    """Return what Optuna calls for each trial: train, and return the validation accuracy."""

    def train(trial: optuna.Trial) -> float:
        chosen = [f"{key}={value}" for key, value in suggest(trial, search.space).items()]
        config, groups, command = compose_config([*search.overrides, *chosen])
        directory = folder / str(trial.number)
        directory.mkdir(parents=True)
        try:
            metrics = run(config, directory, groups, command, callbacks=[Pruning(trial)])
        except (UserError, optuna.TrialPruned) as error:  # a rate at which training diverges is no better
            write_json(directory / "failure.json", {"reason": str(error)})
            log.info("trial %d: %s: %s", trial.number, " ".join(chosen), error)
            raise optuna.TrialPruned(str(error)) from error
        accuracy = float(metrics["val"]["accuracy"])
        log.info("trial %d: %s: val accuracy %.4f", trial.number, " ".join(chosen), accuracy)
        return accuracy

    return train


def optimize(
    search: Search, folder: Path, name: str, storage: str, trials: int, seed: int | None
) -> optuna.Study:
    """Run trials until the study has so many, all workers together.

    Args:
        folder: of the run directories, one for each trial.
        storage: an address that Optuna knows, sqlite:///... say.
        trials: of the whole study, those pruned included.
        seed: of the sampler; workers of one study should have different ones, or none.
    """
    compose_config([*search.overrides, *(f"{key}={value}" for key, value in search.start.items())])
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(storage, heartbeat_interval=30, grace_period=120),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),  # others' trials count as poor
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    if search.start and not study.trials:
        study.enqueue_trial(search.start, skip_if_exists=True)
    left = optuna.study.MaxTrialsCallback(trials, states=ENDED)
    if len(study.get_trials(deepcopy=False, states=ENDED)) < trials:
        study.optimize(objective(search, folder), callbacks=[left])
    return study


def experiment(search: Search, best: Mapping[str, Any], header: str) -> str:
    """Return the best trial as an experiment's config, which ``train.py experiment=...`` runs."""
    settings = dict(item.split("=", 1) for item in search.overrides) | dict(best)
    _, groups, _ = compose_config([f"{key}={value}" for key, value in settings.items()])
    chosen = {key: value for key, value in settings.items() if key in groups}
    values = OmegaConf.from_dotlist(
        [
            f"{key}={value}"
            for key, value in settings.items()
            if key not in (*chosen, *INCIDENTAL, "output_dir")
        ]
    )
    lines = ["# @package _global_", f"# {header}", "defaults:"]
    lines += [f"  - override /{group}: {option}" for group, option in chosen.items()]
    return "\n".join([*lines, "  - _self_", "", OmegaConf.to_yaml(values)])
