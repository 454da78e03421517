"""One rank: python -m fmnist_lit.ranks.process RUN RANK LOCAL. The launcher starts it, nobody else."""

import json
import logging.config
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from fmnist_lit.config import read_config
from fmnist_lit.interrupt import Interrupted, own_signals
from fmnist_lit.ranks.exchange import RankLost, Ranks, connected
from fmnist_lit.ranks.launcher import FOLDER, LOST
from fmnist_lit.run import train_and_test
from fmnist_lit.storage import write_json
from fmnist_lit.trainer import accelerator


def end_with_launcher() -> None:
    """Treat the launcher's end, however it comes, as SIGTERM: finish the step, save, end."""

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


def log_as(directory: Path) -> None:
    """Log as the command that started the run does, if it was one."""
    kept = directory / ".hydra" / "hydra.yaml"
    if not kept.exists():
        return
    hydra = OmegaConf.load(kept).hydra
    hydra.runtime.output_dir = str(directory)
    logging.config.dictConfig(OmegaConf.to_container(hydra.job_logging, resolve=True))  # type: ignore[arg-type]


def work(directory: Path, ranks: Ranks, config: Mapping[str, Any]) -> None:
    """Train with the others."""
    job = json.loads((directory / FOLDER / "job.json").read_bytes())
    if ranks.first:
        log_as(directory)
    cuda = accelerator(config["trainer"]) == "gpu"
    with own_signals() as signals, group(ranks, directory / FOLDER / "meeting_point", cuda):
        train_and_test(config, directory, job["choices"], job["command"], signals, job["resumed"], (), ranks)


def main() -> int:
    """Train and return the exit status; leave the reason of a failure for the launcher."""
    end_with_launcher()
    directory, rank, local = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    try:
        config = read_config(directory)
        count = config["trainer"]["devices"] * config["trainer"]["num_nodes"]
        work(directory, Ranks(rank, count, local), config)
    except Interrupted as error:
        return error.status
    except RankLost:
        return LOST
    except Exception as error:
        reason = {"kind": type(error).__name__, "reason": str(error), "traceback": traceback.format_exc()}
        write_json(directory / FOLDER / f"{rank}.json", reason)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
