"""Sweeps: one folder for all jobs; started again with a name, they do what is missing; cores are shared."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from fmnist_lit.config import INCIDENTAL, check_whole, decisive, differences, read_config
from fmnist_lit.errors import Occupied, UsageError, UserError
from fmnist_lit.files import LOCK, is_locked, write_json

log = logging.getLogger(__name__)

SWEEP_FILE = "sweep.json"
OF_ALL_JOBS = ("name", "output_dir")
WAIT_S = 15.0  # for jobs of a command that was killed: they save and end


def gather_jobs(config: DictConfig) -> None:
    """Let all jobs of a sweep lie below its folder, each in one of its own, whatever is swept.

    Args:
        config: Hydra's of the sweep; it is changed.

    Raises:
        UsageError: the command line says otherwise; the message says what can be done.
    """
    check_whole({key: config[key] for key in OF_ALL_JOBS})
    further = OmegaConf.select(config, "hydra.sweeper.params") or {}
    swept = [*config.hydra.overrides.task, *(f"{key}={value}" for key, value in further.items())]
    for override in OverridesParser.create().parse_overrides(swept):
        if override.key_or_group in OF_ALL_JOBS and override.is_sweep_override():
            key = override.key_or_group
            raise UsageError(
                f"{override.input_line}: a sweep has one {key}, and its jobs are numbered folders below it. "
                f"Give one {key} or none; the table at the end says in which keys jobs differ."
            )
    folder = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[call-overload, index]
    parts = Path(str(folder)).parts
    if "job.num}" not in str(folder) or ".." in parts or Path(str(folder)).is_absolute():
        raise UsageError(
            f"hydra.sweep.subdir={folder}: it must be a folder below the sweep's and hold "
            "${hydra:job.num}, so that no two jobs share it."
        )
    whole = str(Path(config.hydra.sweep.dir).absolute()).replace("'", r"\'").replace("${", r"\${")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{whole}'")


def begin_sweep(directory: Path, name: str, overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Start a named sweep, or go on with it.

    Args:
        overrides: of the command line.
        config: composed without what is swept.

    Raises:
        UsageError: another sweep has that name; the message says what differs.
    """
    swept = [item for item in overrides if not item.startswith("hydra") and key_of(item) not in INCIDENTAL]
    now: dict[str, Any] = {"overrides": swept, "config": decisive(config)}
    file = directory / SWEEP_FILE
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_json(file, now)
        return
    before = read_sweep(file)
    changes = [f"{item} was there" for item in before["overrides"] if item not in now["overrides"]]
    changes += [f"{item} is new" for item in now["overrides"] if item not in before["overrides"]]
    if not changes and before["overrides"] != now["overrides"]:  # jobs are numbered by it
        changes = [f"the order was {' '.join(before['overrides'])}"]
    changes = changes or differences(before["config"], now["config"])
    if changes:
        raise UsageError(f"name={name}: a sweep of that name ran with another command: {'; '.join(changes)}.")
    wait_for_jobs(directory)


def read_sweep(file: Path) -> dict[str, Any]:
    """Read what a sweep was started with.

    Raises:
        UserError: the file is damaged.
    """
    try:
        kept = json.loads(file.read_bytes())
        texts = all(isinstance(item, str) for item in kept["overrides"])
        if texts and isinstance(kept["overrides"], list) and isinstance(kept["config"], dict):
            return dict(kept)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass  # whatever is wrong with it, the way on is the same
    raise UserError(
        f"{file} is damaged. If the command is the same as before, delete the file and go on: "
        "each job is held against its own config."
    )


def wait_for_jobs(sweep: Path) -> None:
    """Give jobs that are still going on a little time to end."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and any(
        is_going_on(config.parent) for config in sweep.glob("**/config.yaml")
    ):
        time.sleep(0.2)


def is_going_on(run: Path) -> bool:
    """Whether another process trains in a run directory."""
    return is_locked(run / LOCK)


def key_of(override: str) -> str:
    """Return the key that an override sets."""
    return override.partition("=")[0].lstrip("+~")


def refuse_other_job(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a job that was another one.

    Raises:
        Occupied: it was; the message says what differs.
        UserError: its config is damaged.
    """
    changes = differences(decisive(read_config(directory)), decisive(config))
    if changes:
        raise Occupied(f"{directory} holds a job of another config: {'; '.join(changes)}.")


def threads_for(launcher: Mapping[str, Any], devices: int = 1) -> int | None:
    """Return each job's share of the cores if Hydra's launcher runs several at a time here, else None.

    Args:
        devices: processes of a job.

    Two jobs with two threads each take five to ten times as long on two cores as with one each.
    """
    if not str(launcher.get("_target_", "")).endswith("JoblibLauncher"):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = int(launcher.get("n_jobs") or 1)
    at_a_time = jobs if jobs > 0 else max(1, cores + 1 + jobs)  # joblib: -1 is all cores, -2 all but one
    return max(1, cores // at_a_time // devices)
