"""Sweeps: one folder for all jobs; started again with a name, they do what is missing; cores are shared."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from fmnist_lit.config import INCIDENTAL, check_whole, decisive, differences, read_config
from fmnist_lit.errors import Occupied, UsageError, UserError
from fmnist_lit.files import LOCK, is_locked, write_json
from fmnist_lit.overrides import in_shell, quoted

log = logging.getLogger(__name__)

SWEEP_FILE = "sweep.json"
OF_ALL_JOBS = ("name", "output_dir")
MANY = 20  # jobs take Hydra two seconds and more to compose
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
    overrides = OverridesParser.create().parse_overrides(swept)
    for override in overrides:
        if override.key_or_group in OF_ALL_JOBS and override.is_sweep_override():
            key, _, value = str(override.input_line).partition("=")
            raise UsageError(
                f"{override.input_line}: a sweep has one {key}, and its jobs are numbered folders below it. "
                f"Give one {key} or none; the table at the end says in which keys jobs differ. "
                f"One with commas is quoted: {in_shell(quoted(key, value))}"
            )
    unresolved: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    folder = Path(str(unresolved["subdir"]))
    if "job.num}" not in str(folder) or ".." in folder.parts or folder.is_absolute():
        raise UsageError(
            f"hydra.sweep.subdir={folder}: it must be a folder below the sweep's and hold "
            "${hydra:job.num}, so that no two jobs share it."
        )
    whole = str(Path(config.hydra.sweep.dir).absolute()).replace("'", r"\'").replace("${", r"\${")
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{whole}'")
    if (jobs := count_jobs(overrides)) >= MANY:
        log.info("Composing %d jobs, to find mistakes before the first one starts ...", jobs)


def count_jobs(overrides: Sequence[Override]) -> int:
    """Count the jobs of a sweep; options that a pattern finds are not counted."""
    listed = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP, ValueType.RANGE_SWEEP)
    return math.prod(len(list(one.sweep_iterator())) for one in overrides if one.value_type in listed)


def begin_sweep(directory: Path, name: str, overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Start a named sweep, or go on with it.

    Args:
        overrides: of the command line.
        config: composed without what is swept.

    Raises:
        UsageError, UserError: as ``begin_or_go_on`` does.
    """
    swept = [item for item in overrides if not item.startswith("hydra") and key_of(item) not in INCIDENTAL]
    if begin_or_go_on(directory / SWEEP_FILE, f"the sweep name={name}", swept, decisive(config)):
        wait_for_jobs(directory)


def begin_or_go_on(file: Path, what: str, overrides: Sequence[str], config: Mapping[str, Any]) -> bool:
    """Keep what a sweep or a study is begun with, or hold it against that; return whether it goes on.

    Args:
        what: is begun, for the message.
        overrides: jobs are numbered by their order.
        config: flat.

    Raises:
        UsageError: it was begun with something else; the message says what differs.
        UserError: the file that says it is damaged.
    """
    numbered = {f"override {number}": item for number, item in enumerate(overrides, 1)}
    now = json.loads(json.dumps({**numbered, **config}))  # as the file has it
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, now)
        return False
    try:
        before = json.loads(file.read_bytes())
        if not isinstance(before, dict) or not before:
            raise ValueError("it holds no config")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged. If the command is the same as before, delete the file and go on."
        ) from error
    if said := differences(before, now):
        raise UsageError(
            f"{what} was begun with another command: {'; '.join(said)}. "
            "Choose another name, or say what it said."
        )
    return True


def wait_for_jobs(sweep: Path) -> None:
    """Give jobs that are still going on a little time to end."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and any(map(is_locked, sweep.glob(f"**/{LOCK}"))):
        time.sleep(0.2)


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
