"""One rank: python -m fmnist_lit.ranks.process RUN RANK LOCAL. The launcher starts it, nobody else."""

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist

from fmnist_lit.errors import os_message
from fmnist_lit.interrupt import Interrupted, own_signals
from fmnist_lit.logs import log_to_console, logged_to
from fmnist_lit.ranks.exchange import RankLost, Ranks, connected
from fmnist_lit.ranks.launcher import FOLDER, JOB, LOST
from fmnist_lit.run import train_and_test
from fmnist_lit.storage import write_json
from fmnist_lit.trainer import accelerator


def end_with_launcher() -> None:
    """Treat the launcher's end, however it comes, as SIGTERM: finish the step, save, end.

    Before the ranks have met SIGTERM ends the process at once.
    """

    def wait() -> None:
        os.read(0, 1)  # the launcher holds the other end and writes nothing
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def group(ranks: Ranks, meeting_point: Path, cuda: bool) -> Iterator[None]:
    """Meet the other ranks, and part from them."""
    if cuda:
        torch.cuda.set_device(ranks.local)
    with connected():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=f"file://{meeting_point.resolve()}",
            rank=ranks.rank,
            world_size=ranks.count,
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def work(directory: Path, rank: int, local: int) -> None:
    """Train with the others."""
    job = json.loads((directory / FOLDER / JOB).read_bytes())
    trainer = job["config"]["trainer"]
    ranks = Ranks(rank, trainer["devices"] * trainer["num_nodes"], local)
    what = (job["config"], directory, job["choices"], job["command"])
    cuda = accelerator(trainer) == "gpu"
    with ExitStack() as opened:
        if ranks.first and job["logs"]:
            log_to_console()
            opened.enter_context(logged_to(directory / "train.log"))
        opened.enter_context(group(ranks, directory / FOLDER / "meeting_point", cuda))
        signals = opened.enter_context(own_signals(patient=True))
        train_and_test(*what, signals, job["resumed"], (), ranks)


def reason_of(error: Exception) -> dict[str, str]:
    """Return what the launcher is to know of a failure."""
    if isinstance(error, OSError):
        return {"kind": "UserError", "reason": os_message(error), "traceback": traceback.format_exc()}
    return {"kind": type(error).__name__, "reason": str(error), "traceback": traceback.format_exc()}


def main() -> int:
    """Train and return the exit status; leave the reason of a failure for the launcher."""
    end_with_launcher()
    directory, rank, local = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        work(directory, rank, local)
    except Interrupted as error:
        return error.status
    except Exception as error:
        with suppress(OSError):  # the folder is gone, or the disk is full; the exit status is left
            write_json(directory / FOLDER / f"failure_{rank}.json", reason_of(error))
        return LOST if isinstance(error, RankLost) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
