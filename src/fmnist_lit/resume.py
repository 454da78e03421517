"""Goes on with a run that was stopped: python train.py resume=RUN."""

import json
import logging.config
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fmnist_lit.config import check, origin, read_config
from fmnist_lit.errors import UsageError

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
    config, hydra = read(directory)
    check(config)
    logging.config.dictConfig(OmegaConf.to_container(hydra.job_logging, resolve=True))  # type: ignore[arg-type]
    from fmnist_lit.run import run  # PyTorch is imported here, after the check

    metrics = run(config, directory, *origin(hydra), resumed=True)
    (directory / "failure.json").unlink(missing_ok=True)
    return metrics


def read(directory: Path) -> tuple[dict[str, Any], DictConfig]:
    """Read a run's config, and what Hydra kept of its command line.

    Raises:
        UsageError: there is no run, or it is finished.
    """
    files = [directory / "config.yaml", directory / ".hydra" / "hydra.yaml"]
    for file in files:
        if not file.is_file():
            raise UsageError(f"resume={directory}: no run of train.py; it has no {file.name}.")
    if (directory / "metrics.json").is_file():
        accuracy = json.loads((directory / "metrics.json").read_bytes())["test"]["accuracy"]
        raise UsageError(f"resume={directory}: this run is finished, with a test accuracy of {accuracy:.4f}.")
    kept = OmegaConf.load(files[1])
    assert isinstance(kept, DictConfig)
    kept.hydra.runtime.output_dir = str(directory)  # it may have been moved
    return read_config(directory), kept.hydra
