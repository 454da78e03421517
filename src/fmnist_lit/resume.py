"""Goes on with a run that was stopped: python train.py resume=RUN."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fmnist_lit.build import TARGET, TRUSTED, is_inside
from fmnist_lit.config import leaves, read_config, read_origin
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.logs import log_to_console
from fmnist_lit.run_files import read_metrics

# From where a run that may come from elsewhere builds; what else its classes need is trusted by name.
BUILT_FROM = (*TRUSTED, "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torchmetrics")


def named_run(arguments: Sequence[str]) -> tuple[Path, tuple[str, ...]] | None:
    """Return the run that a command line wants to go on with, and further packages for its classes.

    None if it wants something else.

    Raises:
        UsageError: it wants both.
    """
    named = [argument for argument in arguments if argument.startswith("resume=")]
    if not named:
        return None
    trust = [argument for argument in arguments if argument.startswith("trust=")]
    others = [argument for argument in arguments if argument not in (named[0], *trust[:1])]
    if others:
        raise UsageError(f"resume=RUN takes everything from the run. Leave out: {shlex.join(others)}")
    packages = "".join(trust).removeprefix("trust=").strip("[]").split(",")
    return Path(named[0].removeprefix("resume=")), tuple(p.strip() for p in packages if p.strip())


def foreign_packages(config: Mapping[str, Any], known: Sequence[str] = BUILT_FROM) -> list[str]:
    """Return the packages, other than those known, that a run's classes come from."""
    targets = [str(value) for key, value in leaves(config) if key.endswith(f".{TARGET}")]
    names = [target for target in targets if "." in target and not is_inside(target, known)]
    return sorted({name.partition(".")[0] for name in names})


def way_on(directory: Path) -> str:
    """Return the command that goes on with a run of one's own, with what its classes need."""
    packages = foreign_packages(read_config(directory))
    trust = [f"trust={','.join(packages)}"] if packages else []
    return f"python {shlex.join([sys.argv[0], f'resume={directory}', *trust])}"


def resume(directory: Path, trust: Sequence[str] = ()) -> dict[str, Any]:
    """Go on from the last whole checkpoint to the end; the same bits as without the stop, on a CPU.

    Args:
        trust: further packages from which the run's classes may come, and to which it may say any path.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: the run cannot go on, or cannot end well.
    """
    require_unfinished(directory)
    from fmnist_lit.check import check  # PyTorch is imported here
    from fmnist_lit.run import run

    try:
        config, origin = read_config(directory), read_origin(directory)
        packages = foreign_packages(config, (*BUILT_FROM, *trust))
        if len(packages) > 1:
            raise UsageError(
                f"its classes are from {', '.join(packages)}, which are built only where you trust them: "
                f"trust={','.join(packages)}"
            )
        check(config, (*BUILT_FROM, *trust))
        require_no_places(config, trust)
    except UserError as error:
        raise UsageError(f"resume={directory}: {error}") from error
    log_to_console()
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
