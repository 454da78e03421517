"""Sweeps with a name: started again, they do what is missing; and cores divided among jobs at a time."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmnist_lit.config import INCIDENTAL, leaves, read_config
from fmnist_lit.errors import Occupied, UsageError
from fmnist_lit.storage import write_json

SWEEP_FILE = "sweep.json"


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
    before = json.loads(file.read_bytes())
    changes = [f"{item} was there" for item in before["overrides"] if item not in now["overrides"]]
    changes += [f"{item} is new" for item in now["overrides"] if item not in before["overrides"]]
    if not changes and before["overrides"] != now["overrides"]:  # jobs are numbered by it
        changes = [f"the order was {' '.join(before['overrides'])}"]
    changes = changes or differences(before["config"], now["config"])
    if changes:
        raise UsageError(f"name={name}: a sweep of that name ran with another command: {'; '.join(changes)}.")


def key_of(override: str) -> str:
    """Return the key that an override sets."""
    return override.partition("=")[0].lstrip("+~")


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all keys that say what is computed, not where and how fast."""
    return {key: value for key, value in leaves(config) if key not in INCIDENTAL}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in which keys two flat configs differ."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys]


def refuse_other_job(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a job that was another one.

    Raises:
        Occupied: it was; the message says what differs.
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
