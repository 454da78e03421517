"""Goes on with a run that was stopped: python train.py resume=RUN."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fmnist_lit.build import TARGET, TARGET_TFLOP, TRUSTED, is_inside, target_of
from fmnist_lit.config import (
    MAY_CHANGE,
    foreign_packages,
    leaves,
    read_config,
    read_origin,
    require_trusted,
    with_absolute_paths,
)
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.logs import log_to_console
from fmnist_lit.run_files import read_metrics, run_of

# From where a run that may come from elsewhere builds; what else its classes need is trusted by name.
BUILT_FROM = (*TRUSTED, "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torchmetrics")

SHOWN = 5  # names of runs in a message


class Wanted(NamedTuple):
    """What a command line wants to go on with.

    Attributes:
        run: its directory.
        trust: further packages from which the run's classes may come, and to which it may say any path.
        changed: overrides of its config.
    """

    run: Path
    trust: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


def named_run(arguments: Sequence[str]) -> Wanted | None:
    """Return the run that a command line wants to go on with; None if it wants something else.

    Raises:
        UsageError: it wants both.
    """
    of_lightning = [argument for argument in arguments if argument.lstrip("+").startswith("ckpt_path=")]
    if of_lightning:
        path = Path(of_lightning[0].partition("=")[2])
        raise UsageError(
            f"{of_lightning[0]}: a run goes on by its directory: resume={run_of(path)}; another run starts "
            f"from its weights: init_from={run_of(path)}"
        )
    named = [argument for argument in arguments if argument.startswith("resume=")]
    if not named:
        return None
    trust = [argument for argument in arguments if argument.startswith("trust=")]
    changed = [argument for argument in arguments if argument not in (named[0], *trust)]
    refused = [each for each in changed if each.partition("=")[0].lstrip("+") not in MAY_CHANGE]
    if refused:
        raise UsageError(
            f"resume=RUN takes all that decides a figure from the run. Leave out: {shlex.join(refused)}. "
            f"What may change: {', '.join(MAY_CHANGE)}."
        )
    packages = ",".join(argument.removeprefix("trust=").strip("[]") for argument in trust).split(",")
    run = Path(os.path.expanduser(named[0].removeprefix("resume=")))
    return Wanted(run, tuple(p.strip() for p in packages if p.strip()), tuple(changed))


def way_on(directory: Path) -> str:
    """Return the command that goes on with a run of one's own, with what its classes need."""
    packages = foreign_packages(read_config(directory), BUILT_FROM)
    trust = [f"trust={','.join(packages)}"] if packages else []
    return f"python {shlex.join([sys.argv[0], f'resume={directory}', *trust])}"


def resume(directory: Path, trust: Sequence[str] = (), changed: Sequence[str] = ()) -> dict[str, Any]:
    """Go on from the last whole checkpoint to the end; the same bits as without the stop, on a CPU.

    Args:
        trust: see ``Wanted``.
        changed: see ``Wanted``; they become part of the run's config and of its command.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: the run cannot go on, or cannot end well.
    """
    given = dict(item.lstrip("+").split("=", 1) for item in changed)
    longer = given.get("trainer.max_epochs", "")
    if longer and not (longer.isdecimal() and int(longer)):
        raise UsageError(f"trainer.max_epochs={longer}: it must be a whole number, 1 or more.")
    require_unfinished(directory, int(longer or 0))
    from fmnist_lit.check import check  # PyTorch is imported here
    from fmnist_lit.run import run

    try:
        config, (choices, command) = read_config(directory), read_origin(directory)
        config = with_changes(config, changed)
        require_trusted(config, BUILT_FROM, trust)
        check(config, (*BUILT_FROM, *trust))
        if longer:
            require_same_way(config, trust)
        require_no_places(config, trust)
    except UserError as error:
        raise UsageError(f"resume={directory}: {error}") from error
    log_to_console()
    config["data"]["images"] = where_they_are(config["data"]["images"], directory)
    try:
        metrics = run(config, directory, choices, changed_command(command, changed), resumed=True)
    except (UserError, OSError):
        raise
    except Exception as error:  # a run from elsewhere may hold anything; failure.json keeps the traceback
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{directory} cannot go on: {type(error).__name__}: {reason}") from error
    return metrics


def with_changes(config: Mapping[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """Return a run's config with some values changed.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        new = OmegaConf.from_dotlist([item.lstrip("+") for item in changed])
        merged: Any = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(dict(config)), new))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"{shlex.join(changed)}: {' '.join(str(error).split())}") from error
    return with_absolute_paths(merged)


def changed_command(command: str, changed: Sequence[str]) -> str:
    """Return the command that starts a run as it is after some changes."""
    keys = {item.partition("=")[0].lstrip("+") for item in changed}
    kept = [word for word in shlex.split(command) if word.partition("=")[0].lstrip("+") not in keys]
    return shlex.join([*kept, *changed])


def require_same_way(config: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Refuse to make a run longer that would have gone another way from the start.

    Raises:
        UsageError: its rates, or what a callback does, depend on its length.
    """
    from fmnist_lit.schedules import needs_length

    if config["trainer"].get(TARGET_TFLOP):
        raise UsageError(f"trainer.max_epochs: this run's length is trainer.{TARGET_TFLOP}.")
    if needs_length(config["schedule"], (*BUILT_FROM, *trust)):
        raise UsageError("trainer.max_epochs: its schedule's rates depend on the length of the whole run.")
    for name, node in config["callbacks"].items():
        kind = node and target_of(node, f"callbacks.{name}", (*BUILT_FROM, *trust))
        if kind and (kind.__name__ == "StochasticWeightAveraging" or getattr(kind, "needs_length", False)):
            raise UsageError(f"trainer.max_epochs: {kind.__name__} depends on the length of the whole run.")


def require_no_places(config: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Refuse a run whose callbacks or loggers would write out of the place they are run in.

    Raises:
        UsageError: one names such a place, and its package is not trusted by name.
    """
    for group in ("callbacks", "logger"):
        for name, node in config[group].items():
            if node is None or is_inside(node[TARGET], trust):
                continue
            for key, value in leaves(node):
                elsewhere = str(value).startswith(("/", "~")) or "://" in str(value)
                folder = value is not None and key.endswith(("dir", "path", "uri"))
                if elsewhere or folder or ".." in Path(str(value)).parts:
                    raise UsageError(
                        f"{group}.{name}.{key}={value}: a run from elsewhere names no place out of its own. "
                        f"If it is yours, say trust={node[TARGET].partition('.')[0]}"
                    )


def where_they_are(images: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the node of a run's images; those that were read once are read again, not fetched.

    Raises:
        UsageError: they are gone.
    """
    from fmnist_lit.data.sources import has_files, recorded

    if "folder" not in images:
        return dict(images)
    folder = recorded(images["folder"])
    if not str(images[TARGET]).endswith(".fashion_mnist"):
        return {**images, "folder": str(folder)}
    if not has_files(folder):
        raise UsageError(
            f"resume={directory}: its images were expected in {folder}, and they are not there. Put them "
            f"there: python scripts/data.py {shlex.quote(str(folder))} (--source FOLDER if you "
            f"have them); or name another folder: resume={directory} data.images.folder=..."
        )
    return {**images, "folder": str(folder), "source": None}


def require_unfinished(directory: Path, epochs: int = 0) -> None:
    """Refuse a directory without a run, or with a finished one, unless it is to have more epochs.

    Raises:
        UsageError: it is one of these.
    """
    if not (directory / "config.yaml").is_file():
        run = run_of(directory)
        what = "no run of train.py; it has no config.yaml." if directory.exists() else "there is no such run."
        below = sorted(path.parent.name for path in directory.glob("*/config.yaml"))
        near = f"resume={run}" if run != directory else ", ".join(below[:SHOWN])
        raise UsageError(
            f"resume={directory}: {what}{f' Name the directory of a run: {near}' if near else ''}"
        )
    metrics = directory / "metrics.json"
    if not metrics.exists():
        return
    try:
        found = read_metrics(directory)
    except UserError as error:
        raise UsageError(f"{error} Without {metrics}, resume={directory} makes it anew.") from error
    if epochs <= found["epochs"]:
        raise UsageError(
            f"resume={directory}: this run is finished, with a test accuracy of "
            f"{found['test']['accuracy']:.4f} (epochs: {found['epochs']}). To train longer: "
            f"resume={directory} trainer.max_epochs=..., {found['epochs'] + 1} or more"
        )
