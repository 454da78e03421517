"""Contenders in processes of their own, measured in turn, sharing good and bad times."""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track

from fmnist_lit.errors import UserError

ROOT = Path(__file__).parents[3]
IMPORTS = "import torch, lightning, torchvision"


class Contender:
    """A process that measures on demand."""

    def __init__(self, name: str, work: dict[str, Any]) -> None:
        self.name = name
        pairs = [f"{key}={value}" for key, value in work.items()]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fmnist_lit.benchmark.contenders", name, *pairs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self) -> str:
        """Read a line.

        Raises:
            UserError: the process ended instead; the message is its last.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        while line and not line.startswith(("ready", *"0123456789")):  # what libraries print
            line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise UserError(f"{self.name} failed: {(self.errors.read().strip().splitlines() or ['-'])[-1]}")
        return line

    def measure(self) -> tuple[float, float]:
        """Return images per second and the process's peak memory in MiB."""
        self.tell("measure")
        speed, memory = self.answer().split()
        return float(speed), float(memory)

    def tell(self, word: str) -> None:
        """Write a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@contextmanager
def running(name: str, work: dict[str, Any]) -> Iterator[Contender]:
    """Start a contender, wait until it is warm, and end it at the end."""
    contender = Contender(name, work)
    try:
        contender.answer()
        yield contender
        contender.tell("stop")
        contender.process.wait(timeout=30)
    finally:
        contender.process.kill()
        contender.errors.close()


def measure_all(names: list[str], work: dict[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Measure the contenders in turn, several rounds; return the median speed and the memory of each."""
    speeds: dict[str, list[float]] = defaultdict(list)
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        contenders = [stack.enter_context(running(name, work)) for name in names]
        for _ in range(rounds):
            for contender in contenders:
                speed, memory[contender.name] = contender.measure()
                speeds[contender.name].append(speed)
    return {
        name: {"images_per_second": median(speeds[name]), "peak_memory_mib": memory[name]} for name in names
    }


def with_reports(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Add the reports' way: the better of no and two loading processes."""
    best = max(("reports_0", "reports_2"), key=lambda name: figures[name]["images_per_second"])
    return figures | {"reports": figures[best]}


def first_step(rounds: int, source: Path | None) -> dict[str, float]:
    """Measure seconds from the command to the end of the first training step, and of the imports alone."""
    steps, imports = [], []
    with tempfile.TemporaryDirectory() as folder:
        options = [f"output_dir={folder}", "model=mlp4"] + (
            [f"data.images.source={source}"] if source else []
        )
        for _ in track(range(rounds), "first step", console=Console(stderr=True), transient=True):
            imports.append(seconds([sys.executable, "-c", IMPORTS]))
            steps.append(seconds([sys.executable, "-m", "fmnist_lit.benchmark.first_step", *options]))
    return {
        "first_step_s": median(steps),
        "imports_s": median(imports),
        "ratio": median(step / alone for step, alone in zip(steps, imports, strict=True)),
    }


def seconds(command: list[str]) -> float:
    """Return the time that a command takes.

    Raises:
        UserError: it failed.
    """
    started = time.perf_counter()
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"{' '.join(command[1:3])} failed: {answer.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - started
