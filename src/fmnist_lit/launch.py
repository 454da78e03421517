"""Between the command line and a run: Hydra's hooks, messages instead of tracebacks, exit statuses.

Nothing heavy is imported before the config is known to be sound.
"""

import logging
import os
import re
import secrets
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fmnist_lit.config import check, resolved
from fmnist_lit.errors import UsageError, UserError, choices
from fmnist_lit.storage import write_json

FULL_ERROR = "HYDRA_FULL_ERROR"  # set to 1 by the user, it shows tracebacks
WANTS_TRACEBACK = os.environ.get(FULL_ERROR) == "1"

# Runs that start in the same second must not share a directory.
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(3), use_cache=True, replace=True)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stdout is at the time, so that a progress bar can make room for a line."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard output of the moment."""
        return sys.stdout


class Command(Callback):
    """Hydra's hooks around one command, and what is known of it when Hydra has returned."""

    sweep: ClassVar[Path | None] = None
    status: ClassVar[int] = 0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run that cannot work, before Hydra makes its folder."""
        HydraConfig.instance().set_config(config)  # else the names in hydra.run.dir are not known yet
        try:
            refuse_used(Path(config.hydra.run.dir), "config.yaml", "hydra.run.dir")
            check(resolved(config))
        except Exception as error:
            # Hydra swallows what a hook raises, but lets the program end.
            sys.exit(say(error, status=2))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note where the jobs will be."""
        Command.sweep = Path(config.hydra.sweep.dir)
        try:
            refuse_used(Command.sweep, "*/config.yaml", "hydra.sweep.dir")
        except UserError as error:
            sys.exit(say(error, status=2))


def refuse_used(directory: Path, sign: str, key: str) -> None:
    """Refuse a directory that already holds a run; Hydra would write over its records."""
    if next(directory.glob(sign), None):
        raise UsageError(f"{directory} already holds a run. Name another folder, or leave {key} out.")


def run_job(cfg: DictConfig) -> float | None:
    """Run one composed config: Hydra's task.

    Returns:
        The validation accuracy (test accuracy without validation data), for sweepers that look for a
        maximum; None if the run failed. Its directory then holds the reason, and a sweep goes on.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    try:
        config = resolved(cfg)
        check(config)
        from fmnist_lit.run import run  # PyTorch is imported here, after the check

        command = shlex.join(["python", "train.py", *hydra.overrides.task])
        groups = {key: value for key, value in hydra.runtime.choices.items() if "/" not in key}
        metrics = run(config, directory, groups, command)
    except Exception as error:
        reason = {"reason": message(error), "traceback": "".join(traceback.format_exception(error))}
        write_json(directory / "failure.json", reason)
        Command.status = say(error, status=1)
        return None
    return float((metrics["val"] or metrics["test"])["accuracy"])


def message(error: BaseException) -> str:
    """Say what was wrong and what the choices are."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return f"{group}={name}: no such {group}. {choices(name, options_of(group, error))}"
    cause = error.__cause__ or error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node if key not in ("hydra", "_target_")]
        return f"{cause.full_key}: no such key. {choices(str(cause.key), known)}"
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    if isinstance(error, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]} (key: {error.full_key})"
    prefix = f"cannot read {error.override}: " if isinstance(error, OverrideParseException) else ""
    lines = [line.strip() for line in str(error).splitlines()]
    if isinstance(error, UserError):
        return str(error)
    return prefix + " ".join(line for line in lines if line and not line.startswith("See http"))


def options_of(group: str, error: MissingConfigException) -> list[str]:
    """List the options of a config group, those in its folders as "folder/option", as Hydra's error tells."""
    conf = re.search(r"provider=main, path=file://(.+)", str(error))
    if conf is None:
        return list(error.options or ())
    folder = Path(conf[1]) / group
    options = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml"))
    return [str(option) for option in options if not option.name.startswith("_")]  # those are for others


def say(error: BaseException, status: int) -> int:
    """Print the message, behind a traceback if it is wanted or the fault is ours; return the exit status."""
    users = isinstance(error, UserError | OSError | HydraException | OmegaConfBaseException)
    if WANTS_TRACEBACK or not users:
        traceback.print_exception(error)
    print(f"error: {message(error) or type(error).__name__}", file=sys.stderr)
    return error.status if isinstance(error, UserError) else status


def command_line(train: Callable[[], Any]) -> int:
    """Call Hydra's main and return the exit status: 0, 1 for a failure, 2 for a wrong command line."""
    try:
        call_hydra(train)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if Command.sweep is None:
        return Command.status
    remove_empty_sweep()
    if not Command.sweep.exists():
        return say(UsageError("this sweep has no jobs."), status=2)
    from fmnist_lit.report.summary import sweep_summary

    text, failed = sweep_summary(Command.sweep)
    print(text)
    return 1 if failed else 0


def call_hydra(train: Callable[[], Any]) -> None:
    """Let Hydra compose and run; what it cannot compose ends the program with a message."""
    os.environ[FULL_ERROR] = "1"  # Hydra is to raise, not to print and leave
    try:
        train()
    except Exception as error:  # run_job raises nothing: this command line could not be composed
        remove_empty_sweep()
        no_folder = isinstance(error, OSError) and not isinstance(error, HydraException)
        wrong = UsageError(str(error)) if isinstance(error, ValueError) else error  # Hydra's own check
        sys.exit(say(wrong, status=1 if no_folder else 2))


def remove_empty_sweep() -> None:
    """Remove the folder of a sweep that was refused before its first job."""
    sweep = Command.sweep
    if sweep and sweep.is_dir() and {path.name for path in sweep.iterdir()} <= {"multirun.yaml"}:
        shutil.rmtree(sweep)
