"""Kill runs at random moments, go on, compare every bit: python benchmarks/kill_and_resume.py --kills 10."""

import argparse
import csv
import json
import os
import random
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

import fmnist_lit.run  # noqa: F401 (imported once: a run is a process that is forked from this one)

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
SMALL: tuple[str, ...] = (
    "data=synthetic",
    "data.images.train=3000",
    "data.images.test=200",
    "trainer=cpu",
    "logger=none",
)
SMALL += ("threads=1", "trainer.max_epochs=3", "callbacks.resume.every_s=0", "output_dir=runs", "name=x")
MLP = ("model=mlp", "model.hidden=[16]")
CNN = ("model=residual", "model.widths=[4]", "model.blocks=[1]", "model.stem=4", "data.images.train=2000")
RUNS: dict[str, tuple[str, ...]] = {
    "32-true, sgd, train_subset": (*MLP, "data.train_subset=2000"),
    "bf16-mixed, adam, shift_flip": (
        *MLP,
        "trainer.precision=bf16-mixed",
        "optim=adam",
        "augment=shift_flip",
    ),
    "64-true, nadam, moving average": (
        *MLP,
        "trainer.precision=64-true",
        "optim=nadam",
        "ema_decay=0.9",
    ),
    "64-true, BatchNorm, onecycle": (*CNN, "trainer.precision=64-true", "schedule=onecycle"),
    "BatchNorm, amsgrad, erasing, noise": (
        *CNN,
        "optim=amsgrad",
        "augment.erasing.probability=0.5",
        "augment.noise.std=0.1",
    ),
    "plateau, rmsprop, early stopping": (
        *(*MLP, "schedule=plateau", "schedule.patience=0", "optim=rmsprop", "optim.lr=0.02"),
        *("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=6"),
    ),
    "cosine, adamw, dropout, label smoothing": (
        *(*MLP, "schedule=cosine", "optim=adamw", "model.dropout=0.3", "label_smoothing=0.1"),
    ),
    "patches, val_loss, clipping, keras_rmsprop": (
        *(*MLP, "patch=embed", "patch.size=7", "callbacks.best.monitor=val_loss", "optim=keras_rmsprop"),
        "trainer.gradient_clip_val=1.0",
    ),
    "no validation data, test watched, nesterov": (
        *(*MLP, "data.val_fraction=0", "data.log_test_every_epoch=true", "optim=nesterov"),
    ),
    "images in a relative folder, keras": (*MLP, "data.train_subset=2000", "augment=keras"),
}


class Outcome(NamedTuple):
    """What a run gave, but for its times."""

    weights: dict[str, bytes]
    rows: list[dict[str, str]]
    metrics: dict[str, Any]
    files: set[str]


def outcome(run: Path) -> Outcome:
    """Read a finished run."""
    weights = {
        f"{name} {key} {weight.dtype}": weight.reshape(-1).view(torch.uint8).numpy().tobytes()
        for name in ("best", "last")
        for key, weight in torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)[
            "state_dict"
        ].items()
    }
    with (run / "history.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    metrics = json.loads((run / "metrics.json").read_bytes())
    files = {str(path.relative_to(run)) for path in run.rglob("*")}
    return Outcome(weights, rows, {k: v for k, v in metrics.items() if "second" not in k}, files)


def run_here(arguments: list[str], dies_at: int | None) -> None:
    """Run train.py; be killed when a file is renamed, linked or removed for the ``dies_at``th time."""
    count = 0

    def audit(event: str, details: Any) -> None:
        nonlocal count
        if event in ("os.rename", "os.link", "os.remove"):
            count += 1
            if count == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    sys.argv = [TRAIN, *arguments]
    runpy.run_path(TRAIN, run_name="__main__")


def killed(
    folder: Path, arguments: list[str], seconds: float | None = None, dies_at: int | None = None
) -> bool:
    """Run in a process of its own, in a folder, for so many seconds at most; return whether it was killed."""
    log = folder.parent / "output.log"
    process = os.fork()
    if not process:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(folder)
            run_here(arguments, dies_at)
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)  # one that has ended waits to be asked how, and feels nothing
    status = os.waitpid(process, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"{folder}: {' '.join(arguments)} failed:\n{log.read_text()}")
    return os.WIFSIGNALED(status)


def place(folder: Path, source: Path | None) -> Path:
    """Make folders for a run, a link to one beside it, and images in another; return the command's folder."""
    for name in ("here/runs/runs", "elsewhere"):
        (folder / name).mkdir(parents=True)
    (folder / "elsewhere" / "link").symlink_to("../here/runs/runs")
    if source is not None:
        (folder / "here" / "images").symlink_to(source.resolve())
    return folder / "here"


def to_the_end(
    folder: Path, command: list[str], source: Path | None, kills: int, seconds: float
) -> tuple[Path, int, int]:
    """Kill a run so many times at most, until it has ended; return its directory, and what it took."""
    here, done, resumes = place(folder, source), 0, 0
    run, moved = here / "runs" / "runs" / "x", folder / "elsewhere" / "x"
    while not (run / "metrics.json").exists():
        limit: dict[str, Any] = {}
        if done < kills:
            limit = random.choice(
                [{"seconds": random.uniform(0, seconds)}, {"dies_at": random.randrange(1, 40)}]
            )
        if not (run / "config.yaml").exists():
            done += killed(here, command, **limit)
            continue
        if random.random() < 0.3:
            run = run.rename(moved if run != moved else here / "runs" / "runs" / "x")
        names = [str(run), os.path.relpath(run, folder / "elsewhere"), "x" if run == moved else "link/x"]
        done += killed(folder / "elsewhere", [f"resume={random.choice(names)}"], **limit)
        resumes += 1
    return run, done, resumes


def main() -> int:
    """Torment all configurations and print what came of it."""
    parser = argparse.ArgumentParser(description="Kill and resume runs; compare them with undisturbed ones.")
    parser.add_argument("--kills", type=int, default=10, help="of each of ten configurations")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--source", type=Path, help="a folder with Fashion-MNIST, for one configuration")
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    table, different = Table("configuration", "kills", "resumes", "runs", "equal"), 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, overrides) in enumerate(RUNS.items()):
            command, source = [*SMALL, *overrides], chosen.source if "folder" in name else None
            if source is not None:
                command += ["data=fashion_mnist", "data.images.source=images", "data.images.folder=kept"]
                command = [item for item in command if item not in SMALL[:3]]
            folder, started = Path(temporary) / str(number), time.monotonic()
            whole = outcome(to_the_end(folder / "whole", command, source, 0, 0)[0])
            seconds, kills, resumes, runs = time.monotonic() - started, 0, 0, 0
            equal = True
            while kills < chosen.kills:
                run, done, times = to_the_end(
                    folder / str(runs), command, source, chosen.kills - kills, seconds
                )
                equal = equal and outcome(run) == whole
                kills, resumes, runs = kills + done, resumes + times, runs + 1
            different += not equal
            table.add_row(name, str(kills), str(resumes), str(runs), "yes" if equal else "NO")
            print(
                f"{name}: {kills} kills, {resumes} resumes, {'equal' if equal else 'NOT EQUAL'}", flush=True
            )
    Console().print(table)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
