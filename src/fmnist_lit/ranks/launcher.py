"""Starts the ranks of a run, watches over them, and says why they ended.

A rank does not run the command line again: it reads a file of the launcher's. Ranks meet at a file
in that directory, so that on several machines, which must share it, no address is needed.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fmnist_lit.checkpoints import last_good
from fmnist_lit.errors import Diverged, UsageError, UserError
from fmnist_lit.interrupt import SIGNALS, Interrupted, Signals
from fmnist_lit.ranks.exchange import RankLost
from fmnist_lit.storage import write_json
from fmnist_lit.trainer import accelerator

FOLDER = ".ranks"  # in the run directory, while it runs
LOST = 3  # exit status of a rank that lost another one
JOB = "job.json"
GRACE_S = 10  # from the first failure to the end of all ranks; they notice at their next step
SAVE_S = 120  # from a signal to the end: the first rank saves
log = logging.getLogger(__name__)

RANK = (sys.executable, "-m", "fmnist_lit.ranks.process")
Processes = dict[int, subprocess.Popen[bytes]]


class RankFailed(Exception):
    """A fault of ours in a rank; its traceback is the cause."""


def train_on_ranks(
    config: Mapping[str, Any],
    directory: Path,
    choices: Mapping[str, str],
    command: str,
    signals: Signals,
    resumed: bool,
    lock: int,
) -> dict[str, Any]:
    """Train in processes of their own, as ``run`` does in this one.

    Args:
        lock: file descriptor that keeps others out of the directory, as long as a rank lives.

    Returns:
        What metrics.json holds.

    Raises:
        UserError: a rank failed, or there are fewer devices than ranks.
        Interrupted: a signal came; the ranks have saved.
    """
    accelerator(config["trainer"])  # refuses before anything is started
    folder = directory / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        job = {"config": config, "choices": choices, "command": command, "resumed": resumed}
        write_json(folder / JOB, job | {"logs": log.isEnabledFor(logging.INFO)})
        if config["trainer"]["num_nodes"] > 1:
            log.info("On the other machines, 1 and so on: python -m fmnist_lit.ranks %s 1", directory)
        run_node(config, directory, 0, signals, lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    metrics: dict[str, Any] = json.loads((directory / "metrics.json").read_bytes())
    return metrics


def run_node(
    config: Mapping[str, Any], directory: Path, node: int, signals: Signals, lock: int | None = None
) -> None:
    """Run the ranks of this machine to their end.

    Raises:
        UserError: one failed.
        Interrupted: a signal came.
    """
    devices = config["trainer"]["devices"]
    with started(directory, range(node * devices, (node + 1) * devices), lock) as processes:
        signals.deferred = True
        killed = watch(processes, signals)
        signals.check()
        explain({rank: p.returncode for rank, p in processes.items()}, killed, directory)


def log_of(rank: int, directory: Path) -> Path:
    """Return the file for what a rank prints, but for the first, which prints where the launcher does."""
    return directory / FOLDER / f"{rank}.log"


@contextmanager
def started(directory: Path, ranks: range, lock: int | None) -> Iterator[Processes]:
    """Start ranks; whatever happens, none is left behind."""
    processes: Processes = {}
    try:
        for local, rank in enumerate(ranks):
            with log_of(rank, directory).open("wb") as output:
                processes[rank] = subprocess.Popen(
                    [*RANK, str(directory), str(rank), str(local)],
                    stdin=subprocess.PIPE,  # its end tells a rank that the launcher is no more
                    stdout=None if rank == 0 else output,
                    stderr=None if rank == 0 else output,
                    pass_fds=() if lock is None else [lock],
                    start_new_session=True,  # a terminal's Ctrl-C comes to the launcher, and once to a rank
                )
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def watch(processes: Processes, signals: Signals) -> set[int]:
    """Wait until all ranks have ended; hand on a signal; end the others after one has failed.

    Returns:
        The ranks that had to be killed.
    """
    told, deadline = False, float("inf")
    while running := {rank for rank, process in processes.items() if process.poll() is None}:
        if signals.number is not None and not told:
            told, deadline = True, time.monotonic() + SAVE_S
            for rank in running:  # SIGTERM, whatever came here: a rank that still starts knows no other
                processes[rank].terminate()
        if deadline == float("inf") and any(process.returncode for process in processes.values()):
            deadline = time.monotonic() + GRACE_S
        if time.monotonic() > deadline:
            for rank in running:
                processes[rank].kill()
                processes[rank].wait()
            return running
        time.sleep(0.05)
    return set()


def explain(statuses: Mapping[int, int], killed: set[int], directory: Path) -> None:
    """Say why ranks ended, if they did not end well.

    Raises:
        UserError: one failed.
        RankFailed: by a fault of ours.
        Interrupted: a signal came to another machine, and all have saved.
    """
    for status in statuses.values():
        if status - 128 in SIGNALS:
            raise Interrupted(status - 128)
    # On several machines the reason may be another's, whose first rank removes the folder.
    reasons = [json.loads(file.read_bytes()) for file in sorted((directory / FOLDER).glob("failure_*.json"))]
    for reason in reasons:
        if reason["kind"] != RankLost.__name__:
            blame(reason)
    for rank, status in statuses.items():
        if status not in (0, LOST) and rank not in killed:
            ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
            words = [f"rank {rank} {ended}, and the others with it.", *last_line(log_of(rank, directory))]
            raise UserError(" ".join([*words, last_good(directory)]))
    if any(statuses.values()):
        why = reasons[0]["reason"] if reasons else "no reason is known"
        raise UserError(f"a rank lost the others ({why}). {last_good(directory)}")


def last_line(file: Path) -> list[str]:
    """Return the last line of a file, if it has one."""
    return file.read_text().strip().splitlines()[-1:] if file.exists() else []


def blame(failure: Mapping[str, str]) -> None:
    """Raise what a rank raised."""
    kinds: dict[str, type[Exception]] = {
        "UsageError": UsageError,
        "UserError": UserError,
        "Diverged": Diverged,
    }
    kind = kinds.get(failure["kind"], RankFailed)
    raise kind(failure["reason"]) from RuntimeError(failure["traceback"])
