"""Between the command line and a run: Hydra's hooks, messages instead of tracebacks, exit statuses.

Nothing heavy is imported before the config is known to be sound.
"""

import logging
import os
import re
import secrets
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from fmnist_lit.build import ROLES, TARGET, arguments_of, known_keys, role_of
from fmnist_lit.config import RENAMED_KEYS, check_whole, leaves, origin, resolved
from fmnist_lit.errors import (
    Occupied,
    UsageError,
    UserError,
    choices,
    encode_always,
    flush_output,
    os_message,
    printable_lines,
)
from fmnist_lit.files import write_json
from fmnist_lit.interrupt import Interrupted, follow_parent, own_signals
from fmnist_lit.overrides import as_meant, flags_first, options, several, unreadable, usable
from fmnist_lit.resume import named_run, resume, way_on
from fmnist_lit.run_files import keep_overrides, read_metrics
from fmnist_lit.sweeps import SWEEP_FILE, begin_sweep, gather_jobs, refuse_other_job
from fmnist_lit.threads import threads_for

log = logging.getLogger(__name__)

FULL_ERROR = "HYDRA_FULL_ERROR"  # set to 1 by the user, it shows tracebacks
ASKED = "FMNIST_LIT_FULL_ERROR"  # what the user set, for the processes of a sweep: Hydra's is set by us there
WANTS_TRACEBACK = os.environ.get(ASKED, os.environ.get(FULL_ERROR)) == "1"

CONFIG = "config.yaml"  # of a run
WITHOUT_KEYS = ("experiment", "sweep")  # groups that set others' keys

# Runs that start in the same second must not share a directory.
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(3), use_cache=True, replace=True)
OmegaConf.register_new_resolver("named", lambda name, other: name or other, replace=True)
OmegaConf.register_new_resolver("home", lambda path: os.path.expanduser(str(path)), replace=True)


class Command(Callback):
    """Hydra's hooks around one command, and what is known of it when Hydra has returned."""

    sweep: ClassVar[Path | None] = None
    name: ClassVar[str | None] = None  # of the sweep
    run: ClassVar[Path | None] = None  # the last one that was started
    status: ClassVar[int] = 0

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a single run that cannot work, before Hydra makes its folder."""
        with refused(config):
            asked = "hydra.run.dir" if config.name is None else f"name={config.name}"
            check_whole({"name": config.name})
            refuse_used(hydra_folder(config, "run.dir"), CONFIG, asked)
            from fmnist_lit.check import check  # PyTorch is imported here, after all names are known
            from fmnist_lit.finetune import checkpoint_of

            whole = resolved(config)
            check(whole)
            if whole["init_from"]:
                checkpoint_of(whole["init_from"])

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note where the jobs will be; refuse a sweep that cannot work before anything is written."""
        with refused(config):
            gather_jobs(config)
            Command.sweep, Command.name = hydra_folder(config, "sweep.dir"), config.name
            if config.name is None:
                refuse_used(Command.sweep, f"**/{CONFIG}", "hydra.sweep.dir")
            else:
                begin_sweep(Command.sweep, config.name, config.hydra.overrides.task, resolved(config))


def hydra_folder(config: DictConfig, key: str) -> Path:
    """Return the folder that a key of Hydra's names.

    Raises:
        UsageError: it names none: nobody means the one where the command is given.
    """
    named = str(OmegaConf.select(config.hydra, key) or "").strip()
    if not named:
        raise UsageError(f"hydra.{key}=: it names no folder.")
    return Path(named)


@contextmanager
def refused(config: DictConfig) -> Iterator[None]:
    """End the program with a message if a hook's work fails; Hydra would go on."""
    HydraConfig.instance().set_config(config)  # else the names in hydra.run.dir are not known yet
    try:
        yield
    except Exception as error:
        sys.exit(say(error))


def refuse_used(directory: Path, sign: str, asked: str) -> None:
    """Refuse a directory that already holds a run; Hydra would write over its records.

    Args:
        sign: pattern of the files that tell.
        asked: what of the command line leads there.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{asked}: {directory} is no folder.")
    if next(directory.glob(sign), None):
        way = f" To go on with it: resume={directory}." if sign == CONFIG else ""
        raise UsageError(f"{asked}: {directory} already holds a run.{way} To start another, change {asked}.")


def run_job(cfg: DictConfig) -> float | None:
    """Run one composed config: Hydra's task.

    Returns:
        The validation accuracy (test accuracy without validation data), for sweepers that look for a
        maximum; None if the run failed. Its directory then holds the reason, and a sweep goes on.
    """
    hydra = HydraConfig.get()
    directory = Command.run = Path(hydra.runtime.output_dir)
    follow_parent()
    encode_always()  # a sweep's worker is a program of its own
    try:
        config = resolved(cfg)
        config["threads"] = config["threads"] or threads_for(
            hydra.launcher, config["trainer"].get("devices", 1)
        )
        from fmnist_lit.check import check
        from fmnist_lit.run import run

        check(config)
        started = hydra.mode == RunMode.MULTIRUN and (directory / "config.yaml").exists()
        if started:
            refuse_other_job(directory, config)
        if started and (directory / "metrics.json").exists():
            metrics = read_metrics(directory)
            log.info("Job %s is finished already.", hydra.job.num)
        else:
            metrics = run(config, directory, *origin(hydra), resumed=started)
        return float((metrics["val"] or metrics["test"])["accuracy"])
    except Exception as error:
        if isinstance(error, UsageError) and hydra.mode == RunMode.RUN and not (directory / CONFIG).exists():
            with suppress(OSError):
                directory.rmdir()  # Hydra has made it for a run that was never begun
            Command.status = say(error)
        else:
            Command.status = failed(directory, error, origin(hydra)[1])
        return None


def go_on(directory: Path, trust: Sequence[str] = (), changed: Sequence[str] = ()) -> int:
    """Resume a run and return the exit status."""
    Command.run = directory
    try:
        resume(directory, trust, changed)
    except UsageError as error:  # there is nothing to go on with
        return say(error)
    except Exception as error:
        return failed(directory, error)
    return 0


def failed(directory: Path, error: Exception, command: str | None = None) -> int:
    """Say why a run failed, in its directory, too, if that is its own; return the exit status.

    Args:
        command: of a run that may have failed before it has written its own.
    """
    reason = {"reason": message(error), "traceback": "".join(traceback.format_exception(error))}
    if not isinstance(error, Occupied):
        with suppress(OSError):  # a full disk, say; the reason is printed in any case
            write_json(directory / "failure.json", reason)
            if command:
                keep_overrides(directory, command)
    return say(error)


def message(error: BaseException) -> str:
    """Say what was wrong and what the choices are."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and "/" in str(error.missing_cfg_file):
        file = str(error.missing_cfg_file)
        group, _, name = file.rpartition("/") if file.startswith("hydra/") else file.partition("/")
        known = usable({*(error.options or ()), *options(group)})
        return f"{group}={name}: no such {group}. {choices(name, known)}"
    cause = error.__cause__ or error
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        return unknown_key(str(cause.key), str(cause.full_key), cause.parent_node)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return os_message(error, where=Command.run)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: this key is missing; a run needs it."
    if isinstance(error, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]} (key: {error.full_key})"
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("See http"))
    if isinstance(error, OverrideParseException):
        try:
            return unreadable(error.override)
        except UsageError as fault:
            return str(fault)
    if again := re.match(r"(\w+) appears more than once in the final defaults list", said):
        return f"{again[1]}: one is there already. Leave out the plus, or name both: {again[1]}=[...,...]"
    if twice := re.match(r"Multiple values for (\S+)\. .* 'override \S+: (.*)'$", said):
        return f"+{'='.join(twice.groups())}: {twice[1]} is chosen already; leave out the plus."
    ambiguous = re.match(r"Ambiguous value for argument '(.*)'$", lines[0]) if lines else None
    return several(ambiguous[1]) if ambiguous else said


def unknown_key(name: str, key: str, node: DictConfig) -> str:
    """Say which keys a node has, and which its class takes.

    Args:
        name: last part of the key.
    """
    if f"~{key}" in sys.argv[1:]:
        return f"{key}: this key is missing; a run needs it."
    if RENAMED_KEYS.get(key):
        return f"{key}: this key is {RENAMED_KEYS[key]} now."
    place = key.rpartition(".")[0]
    try:
        offered = role_of(place).offered
        further = [key for key in known_keys(arguments_of(node, place)) if key not in offered]
    except (UserError, ValueError, TypeError):  # it has no class, or one that does not say
        further = []
    if name in further:
        return f"{key}: the config has no such key yet. Add it: +{key}=..."
    known = [str(key) for key in node if key not in ("hydra", TARGET)]
    known += () if place else WITHOUT_KEYS
    said = f"{key}: no such key. {choices(name, [*known, *further])}".rstrip()
    if place not in ROLES and f"{place}.*" in ROLES:
        return f"{said} To add one, put a plus before it: +{key}.{TARGET}=..."
    deeper = [] if place else deeper_keys(name, node)
    return f"{key}: no such key. Did you mean {' or '.join(deeper)}?" if deeper else said


def deeper_keys(name: str, config: DictConfig) -> list[str]:
    """Return the dotted keys of a config that end in a name, or in one that has it as its last word.

    The one with the fewest letters more comes first.
    """
    whole = OmegaConf.to_container(config, resolve=False)
    keys = [key for key, _ in leaves(whole) if not key.startswith("hydra.")]  # type: ignore[arg-type]
    found = [key for key in keys if f"_{key.rpartition('.')[2]}".endswith(f"_{name}")]
    return sorted(found, key=lambda key: len(key.rpartition(".")[2]))


def say(error: BaseException) -> int:
    """Print the message, behind a traceback if it is wanted or the fault is ours; return the exit status."""
    typed = isinstance(error, HydraException | OmegaConfBaseException)
    users = typed or isinstance(error, UserError | OSError)
    if WANTS_TRACEBACK or not users:
        traceback.print_exception(error)
    said = message(error)
    if not users:  # a KeyError's own text is a name alone
        said = f"{type(error).__name__}: {said}".removesuffix(": ")
    print(f"error: {printable_lines(said or type(error).__name__)}", file=sys.stderr)
    if isinstance(error, UserError):
        return error.status
    return 2 if typed else 1


def command_line(train: Callable[[], Any]) -> int:
    """Run what the command line says and return the exit status.

    0, 1 for a failure, 2 for a wrong command line, 128 and its number after a signal: 130 after Ctrl-C.
    """
    try:
        with own_signals():
            # A log that cannot be written must not hide the message.
            logging.raiseExceptions = WANTS_TRACEBACK
            sys.argv[1:] = map(home_expanded, sys.argv[1:])
            sys.argv[1:] = as_meant(flags_first(sys.argv[1:]))
            stopped = named_run(sys.argv[1:])
            if stopped is not None:
                return go_on(*stopped)
            call_hydra(train)
            return end_of_sweep()
    except UsageError as error:
        return say(error)
    except Interrupted as error:
        if error.__cause__ is not None:
            say(error.__cause__)
        Command.status = error.status
        if Command.sweep is not None and Command.sweep.exists():
            end_of_sweep()
        with suppress(OSError):  # a terminal that was closed
            print(f"{error}. {after_interrupt()}", file=sys.stderr)
        return error.status
    finally:
        flush_output()


def home_expanded(argument: str) -> str:
    """Expand KEY=~/FOLDER, which no shell does for a dotted key and Hydra cannot read."""
    key, equals, value = argument.partition("=")
    return key + equals + os.path.expanduser(value)


def after_interrupt() -> str:
    """Say how to go on."""
    if Command.name is not None:
        return "To go on: the same command again."
    if Command.run is None or not (Command.run / "config.yaml").exists():
        return "No run was started."
    return f"To go on: {way_on(Command.run)}"


def call_hydra(train: Callable[[], Any]) -> None:
    """Let Hydra compose and run; say what it cannot do, and what became of a sweep's launcher."""
    os.environ[ASKED] = "1" if WANTS_TRACEBACK else "0"
    os.environ[FULL_ERROR] = "1"  # Hydra is to raise, not to print and leave
    try:
        train()
    except Exception as error:  # run_job raises nothing
        told = error
        if isinstance(error, BrokenPipeError):  # of --help, say: whoever read it has seen enough
            return
        if Command.sweep is not None and next(Command.sweep.glob("**/config.yaml"), None):
            told = UserError(f"a job was lost: {' '.join(str(error).split())}")
        elif isinstance(error, ValueError | RuntimeError | YAMLError):
            # Hydra's own check of the command line, a launcher's of the machine, a config that is no YAML
            tab = ". YAML is indented by spaces." if r"'\t'" in str(error) else ""
            told = UsageError(" ".join(str(error).split()) + tab)
        Command.status = say(told)


def end_of_sweep() -> int:
    """Print the table of a sweep, if it was one, and return the exit status.

    The folder of a sweep that was refused before its first job is removed.
    """
    sweep = Command.sweep
    if sweep is None:
        return Command.status
    if sweep.is_dir() and {path.name for path in sweep.iterdir()} <= {"multirun.yaml", SWEEP_FILE}:
        shutil.rmtree(sweep)
    if not sweep.exists():
        return Command.status or say(UsageError("this sweep has no jobs."))
    from fmnist_lit.readers.sweep_table import sweep_summary

    text, failures = sweep_summary(sweep.absolute())
    with suppress(BrokenPipeError):  # whoever read the output has seen enough
        print(text, flush=True)
    return 1 if failures else Command.status
