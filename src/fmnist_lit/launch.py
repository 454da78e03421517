"""Between the command line and a run: Hydra's hooks, messages instead of tracebacks, exit statuses.

Nothing heavy is imported before the config is known to be sound.
"""

import logging
import os
import secrets
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from fmnist_lit.config import check, resolved
from fmnist_lit.errors import UserError, choices
from fmnist_lit.storage import write_json

log = logging.getLogger(__name__)

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
        try:
            check(resolved(config))
        except Exception as error:
            # Hydra swallows what a hook raises, but lets the program end.
            sys.exit(say(error, status=2))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note where the jobs will be."""
        Command.sweep = Path(config.hydra.sweep.dir)


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

        command = " ".join(["python train.py", *hydra.overrides.task])
        groups = {key: value for key, value in hydra.runtime.choices.items() if "/" not in key}
        metrics = run(config, directory, groups, command)
    except Exception as error:
        if WANTS_TRACEBACK and hydra.mode == RunMode.RUN:
            raise
        reason = {"reason": message(error), "traceback": "".join(traceback.format_exception(error))}
        write_json(directory / "failure.json", reason)
        Command.status = say(error, status=1)
        return None
    return float((metrics["val"] or metrics["test"])["accuracy"])


def message(error: BaseException) -> str:
    """Say what was wrong and what the choices are."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such {group}. {choices(name, error.options)}"
    cause = error.__cause__ or error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known = [str(key) for key in cause.parent_node if key not in ("hydra", "_target_")]
        return f"{cause.full_key}: no such key. {choices(str(cause.key), known)}"
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    if isinstance(error, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]} (key: {error.full_key})"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override}: {str(error).splitlines()[0]}"
    return str(error) or type(error).__name__


def say(error: BaseException, status: int) -> int:
    """Print the message, and the traceback if it is a fault of this program; return the exit status."""
    if isinstance(error, AssertionError | TypeError | AttributeError | KeyError):
        traceback.print_exception(error)
    print(f"error: {message(error)}", file=sys.stderr)
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
    from fmnist_lit.report.summary import sweep_summary

    text, failed = sweep_summary(Command.sweep)
    print(text)
    return 1 if failed else 0


def call_hydra(train: Callable[[], Any]) -> None:
    """Let Hydra compose and run; what it cannot compose ends the program with a message."""
    if WANTS_TRACEBACK:
        train()
        return
    os.environ[FULL_ERROR] = "1"  # Hydra is to raise, not to print and leave
    try:
        train()
    except Exception as error:  # run_job raises nothing: this command line could not be composed
        no_folder = isinstance(error, OSError) and not isinstance(error, HydraException)
        sys.exit(say(error, status=1 if no_folder else 2))
