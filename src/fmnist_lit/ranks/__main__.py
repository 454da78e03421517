"""The ranks of a further machine: python -m fmnist_lit.ranks RUN NODE.

The first machine (node 0) runs ``python train.py trainer=ddp trainer.num_nodes=...``; the others run this,
with the same checkout and a run directory that all share.
"""

import argparse
import sys
from pathlib import Path

from fmnist_lit.config import read_config
from fmnist_lit.errors import UsageError, exit_status
from fmnist_lit.interrupt import own_signals
from fmnist_lit.ranks.launcher import FOLDER, JOB, run_node
from fmnist_lit.storage import is_locked
from fmnist_lit.trainer import accelerator


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        "fmnist_lit.ranks", description="Start a further machine's ranks of a run."
    )
    parser.add_argument("run", type=Path, help="the run directory that the first machine started")
    parser.add_argument("node", type=int, help="number of this machine, from 1")
    return parser.parse_args()


def join(run: Path, node: int) -> None:
    """Train with the other machines.

    Raises:
        UsageError: there is nothing to join, or no such place in it.
        UserError: a rank failed.
        Interrupted: a signal came.
    """
    if not (run / FOLDER / JOB).is_file() or not is_locked(run / "config.yaml"):
        raise UsageError(
            f"{run}: no run of several machines is going on here. Start the first machine first."
        )
    config = read_config(run)
    nodes = config["trainer"]["num_nodes"]
    if not 1 <= node < nodes:
        raise UsageError(f"{node}: of {nodes} machines (trainer.num_nodes), 1 to {nodes - 1} can join.")
    accelerator(config["trainer"])  # refuses before anything is started
    with own_signals() as signals:
        run_node(config, run, node, signals)


if __name__ == "__main__":
    chosen = arguments()
    sys.exit(exit_status(lambda: join(chosen.run, chosen.node)))
