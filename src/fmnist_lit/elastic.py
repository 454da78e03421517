"""Starts the processes that train one model together, and tells how they ended.

``python train.py trainer=ddp trainer.devices=2`` starts them itself by PyTorch's elastic launcher, with
``worker.py`` as their program. Under ``torchrun`` or ``srun`` each process is one already.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fmnist_lit.checkpoints import last_good
from fmnist_lit.errors import Diverged, Occupied, UsageError, UserError
from fmnist_lit.interrupt import SIGNALS, Interrupted

WORKER = "fmnist_lit.worker"
SAVE_S = "120"  # from a signal to the end: the processes save
KINDS = {kind.__name__: kind for kind in (UserError, UsageError, Diverged, Occupied)}


class ProcessFailed(Exception):
    """A fault of ours in one of the processes; its traceback is the cause."""


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
                "-m", WORKER, str(directory), *["resumed"][: int(resumed)]
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
        kind, _, reason = message_of(failure).partition(": ")
        if kind in KINDS:
            raise KINDS[kind](reason)
    number, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    raise ProcessFailed(f"rank {number}: {message_of(failure)}")


def message_of(failure: ProcessFailure) -> str:
    """Return the message of a process, which is a text or holds one."""
    message: Any = failure.message
    return str(message["message"]) if isinstance(message, dict) else str(message)
