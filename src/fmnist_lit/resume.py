"""Goes on with a run that was stopped: python train.py resume=RUN."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmnist_lit.build import TARGET
from fmnist_lit.config import check, read_config, read_origin
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.logs import log_to_console
from fmnist_lit.run_files import read_metrics

KEY = "resume="


def named_run(arguments: Sequence[str]) -> Path | None:
    """Return the run that a command line wants to go on with; None if it wants something else.

    Raises:
        UsageError: it wants both.
    """
    named = [argument for argument in arguments if argument.startswith(KEY)]
    if not named:
        return None
    others = [argument for argument in arguments if argument not in named[:1]]
    if others:
        raise UsageError(f"resume=RUN takes everything from the run. Leave out: {shlex.join(others)}")
    return Path(named[0].removeprefix(KEY))


def resume(directory: Path) -> dict[str, Any]:
    """Go on from the last whole checkpoint to the end; the same bits as without the stop, on a CPU.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: the run cannot go on, or cannot end well.
    """
    require_unfinished(directory)
    try:
        config, origin = read_config(directory), read_origin(directory)
        check(config)
    except UserError as error:
        raise UsageError(f"resume={directory}: {error}") from error
    log_to_console()
    from fmnist_lit.run import run  # PyTorch is imported here, after the check

    config["data"]["images"] = where_they_are(config["data"]["images"], directory)
    try:
        metrics = run(config, directory, *origin, resumed=True)
    except (UserError, OSError):
        raise
    except Exception as error:  # a run from elsewhere may hold anything; failure.json keeps the traceback
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{directory} cannot go on: {type(error).__name__}: {reason}") from error
    (directory / "failure.json").unlink(missing_ok=True)
    return metrics


def where_they_are(images: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return the node of a run's images; those that were read once are read again, not fetched.

    Raises:
        UsageError: they are gone.
    """
    from fmnist_lit.data.sources import LAYOUT, recorded

    if "folder" not in images:
        return dict(images)
    folder = recorded(images["folder"])
    if not str(images[TARGET]).endswith(".fashion_mnist"):
        return {**images, "folder": str(folder)}
    if not (folder / LAYOUT).is_dir():
        raise UsageError(
            f"resume={directory}: its images were expected in {folder}, and they are not there. Put them "
            f"there: python -m fmnist_lit.data.sources {shlex.quote(str(folder))} (--source FOLDER if you "
            f"have them); or set data.images.folder in {directory / 'config.yaml'}."
        )
    return {**images, "folder": str(folder), "source": None}


def require_unfinished(directory: Path) -> None:
    """Refuse a directory without a run, or with a finished one.

    Raises:
        UsageError: it is one of these.
    """
    if not (directory / "config.yaml").is_file():
        raise UsageError(f"resume={directory}: no run of train.py; it has no config.yaml.")
    metrics = directory / "metrics.json"
    if not metrics.exists():
        return
    try:
        accuracy = read_metrics(directory)["test"]["accuracy"]
    except UserError as error:
        raise UsageError(f"{error} Without {metrics}, resume={directory} makes it anew.") from error
    raise UsageError(f"resume={directory}: this run is finished, with a test accuracy of {accuracy:.4f}.")
