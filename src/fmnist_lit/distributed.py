"""Several processes that train one model.

PyTorch's elastic launcher starts and watches them, Lightning's DDPStrategy averages their gradients.
``python train.py trainer=ddp trainer.devices=2`` starts them itself, with this module as their program. Under
``torchrun`` or ``srun`` each process is one already.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import (
    ChildFailedError,
    ProcessFailure,
    get_error_handler,
)
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fmnist_lit.checkpoints import last_good
from fmnist_lit.errors import Diverged, Occupied, UsageError, UserError
from fmnist_lit.interrupt import SIGNALS, Interrupted

SAVE_S = "120"  # from a signal to the end: the processes save
KINDS = {kind.__name__: kind for kind in (UserError, UsageError, Diverged, Occupied)}


class ProcessFailed(Exception):
    """A fault of ours in one of the processes; its traceback is the cause."""


def world_size(config: Mapping[str, Any]) -> int:
    """Return how many processes train together, by a run's config."""
    settings = config["trainer"]
    devices = settings.get("devices", 1)
    ddp = str(settings.get("strategy", "")).startswith("ddp")
    return int(devices) * int(settings.get("num_nodes", 1)) if ddp and isinstance(devices, int) else 1


def is_started(config: Mapping[str, Any]) -> bool:
    """Whether this process is one of those that train together, and not the one that is to start them."""
    if TorchElasticEnvironment.detect():
        return world_size(config) > 1
    tasks = os.environ.get("SLURM_NTASKS")
    return SLURMEnvironment.detect() and world_size(config) > 1 and tasks == str(world_size(config))


def rank(config: Mapping[str, Any]) -> int:
    """Return this process's number among those that train together; 0 for one alone, in whatever cluster."""
    if not is_started(config):
        return 0
    return int(os.environ["RANK" if TorchElasticEnvironment.detect() else "SLURM_PROCID"])


def gathered(value: Any) -> list[Any]:
    """Return every process's value; of one alone, its own."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def largest(numbers: list[int]) -> list[int]:
    """Return the largest of each number over all processes."""
    return [max(column) for column in zip(*gathered(numbers), strict=True)]


def launch(config: Mapping[str, Any], directory: Path, resumed: bool) -> None:
    """Start the processes of a run on this machine and wait for their end.

    Raises:
        UsageError: the run is one of several machines.
        UserError: a process failed.
        Interrupted: a signal came; the processes have saved.
    """
    devices, nodes = config["trainer"]["devices"], config["trainer"].get("num_nodes", 1)
    if nodes > 1:
        raise UsageError(
            f"trainer.num_nodes={nodes}: start the processes on each machine: torchrun --nnodes {nodes} "
            f"--nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint HOST:29500 train.py name=... ..."
        )
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SAVE_S)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what ends a process is ours to tell
    with TemporaryDirectory(prefix="fmnist-lit-") as logs:
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(logs, redirects=dict.fromkeys(range(1, devices), Std.ALL)),
        )
        try:
            elastic_launch(settings, sys.executable)(
                "-m", __name__, str(directory), *["resumed"][: int(resumed)]
            )
        except SignalException as error:
            raise Interrupted(int(error.sigval)) from None
        except ChildFailedError as error:
            blame(error.failures, directory)


def blame(failures: Mapping[int, ProcessFailure], directory: Path) -> None:
    """Raise what the process raised that failed first; the others failed with it.

    Raises:
        Interrupted: a signal came, and all have saved.
        UserError: a process failed.
        ProcessFailed: by a fault of ours.
    """
    for number, failure in failures.items():
        if failure.exitcode - 128 in SIGNALS:
            raise Interrupted(failure.exitcode - 128)
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
            ended = signal.Signals(-failure.exitcode).name
            raise UserError(
                f"rank {number} was ended by {ended}, and the others with it. {last_good(directory)}"
            )
    for failure in failures.values():
        kind, _, reason = said(failure).partition(": ")
        if kind in KINDS:
            raise KINDS[kind](reason)
    number, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    raise ProcessFailed(f"rank {number}: {said(failure)}")


def said(failure: ProcessFailure) -> str:
    """Return the message of a process, which is a text or holds one."""
    message: Any = failure.message
    return str(message["message"]) if isinstance(message, dict) else str(message)


def end_with_launcher() -> None:
    """Treat the launcher's end, however it comes, as SIGTERM: finish the step, save, end."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Train as one of a run's processes and return the exit status: python -m fmnist_lit.distributed RUN."""
    from fmnist_lit.config import read_config, read_origin
    from fmnist_lit.logs import log_to_console
    from fmnist_lit.run import run

    end_with_launcher()
    handler = get_error_handler()
    handler.initialize()
    directory, resumed = Path(sys.argv[1]), sys.argv[2:] == ["resumed"]
    if os.environ["RANK"] == "0":
        log_to_console()
    try:
        run(read_config(directory), directory, *read_origin(directory), resumed=resumed, claimed=True)
    except Interrupted as error:
        return error.status
    except Exception as error:
        handler.record_exception(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
