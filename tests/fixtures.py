"""Composing and running small configs in process, on drawn images."""

import csv
import gc
import http.server
import io
import json
import logging
import multiprocessing
import os
import pickle
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import omegaconf.base
import pytest

# Before PyTorch is there: two processes of two threads each run several times slower on two cores.
os.environ["OMP_NUM_THREADS"] = "1"
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from lightning.fabric.utilities import registry
from matplotlib.layout_engine import ConstrainedLayoutEngine
from omegaconf import OmegaConf

from fmnist_lit import app  # noqa: F401 (registers the resolvers that conf/ uses)
from fmnist_lit.app import ASKED, FULL_ERROR, Command
from fmnist_lit.check import check
from fmnist_lit.config import resolved
from fmnist_lit.data import synthetic
from fmnist_lit.errors import UserError
from fmnist_lit.logs import log_to_console
from fmnist_lit.run import run
from fmnist_lit.weights import load_checkpoint

ROOT = Path(__file__).parent.parent
# Seconds, not minutes; one thread, because two test runs may share two cores.
SMALL = (
    "data=synthetic",
    "data.images.train=200",
    "data.images.test=100",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "threads=1",
    "logger=none",
)

Config = dict[str, Any]
# Looking for garbage among all that is imported takes up to an eighth of a test's time.
gc.set_threshold(50_000, 20, 50)
yaml_load = OmegaConf.load


@cache
def loaded(text: str) -> bytes:
    return pickle.dumps(yaml_load(io.StringIO(text)))  # a fifth of deepcopy's time


def load_once(file: Any) -> Any:
    """Take a text that was read before from memory: a third of Hydra's time goes into the same few files."""
    text = file.read() if hasattr(file, "read") else Path(file).read_text(encoding="utf-8")
    try:
        return pickle.loads(loaded(text))
    except Exception:  # its message is to name the file
        if hasattr(file, "seek"):
            file.seek(0)
        return yaml_load(file)


OmegaConf.load = staticmethod(load_once)
# The same few interpolations, too: to read them takes a tenth of Hydra's time.
omegaconf.base.parse = cache(omegaconf.base.parse)
draw_set = synthetic.draw_set


@cache
def drawn(count: int, state: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng()
    random.bit_generator.state = json.loads(state)
    return draw_set(count, random)


def draw_once(count: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Take images that were drawn before from memory."""
    images, labels = drawn(count, json.dumps(random.bit_generator.state))
    return images.clone(), labels.clone()


synthetic.draw_set = draw_once
# Which packages are installed, which Lightning asks for at each start of a Trainer.
registry.entry_points = cache(registry.entry_points)
# Where titles and labels go is looked at, not tested; to find it takes half of a figure's time.
ConstrainedLayoutEngine.execute = lambda self, fig: {}
# No test cuts the power; to wait for the disk takes a fiftieth of the time.
os.fsync = lambda descriptor: None


class Answer(NamedTuple):
    """What a script printed and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def unpatchify(patches: torch.Tensor) -> torch.Tensor:
    """Put patches together again: (n, patches, size * size) to (n, 1, 28, 28)."""
    size = int(patches.shape[2] ** 0.5)
    return torch.nn.functional.fold(patches.transpose(1, 2), 28, size, stride=size)


def call(script: ModuleType, *arguments: object) -> Answer:
    """Run a script's main in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        try:
            status = script.main()
        except SystemExit as left:  # argparse's own answer
            status = left.code
        return Answer(status, out.getvalue(), err.getvalue())


def answer_in_process(arguments: list[str]) -> tuple[int | str | None, str, str]:
    """Run train.py's command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        for name in (FULL_ERROR, ASKED):
            patch.setenv(name, "0")  # and what the command sets is undone
        for name in ("sweep", "name", "run", "status"):
            patch.setattr(Command, name, getattr(Command, name))
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            status: int | str | None = None
        except SystemExit as left:
            status = left.code
        finally:
            GlobalHydra.instance().clear()
    return status, out.getvalue(), err.getvalue()


class Forked(subprocess.Popen[str]):
    """A Python program as a process of its own, forked from this one, so that it imports nothing.

    Signals, kills, files, folder, environment and exit status are those of a program that was started. What
    was set to run at Python's exit does not run. Who tests the start itself takes ``subprocess.Popen``.
    """

    def __init__(self, args: Sequence[str], env: Mapping[str, str] | None = None, **further: Any) -> None:
        # A process that CUDA was initialized in cannot train in a fork.
        if not torch.cuda.is_available():
            further["preexec_fn"] = partial(
                be_program, list(args)[1:], dict(os.environ if env is None else env)
            )
        super().__init__(args, env=env, **further)


def be_program(command: list[str], environment: dict[str, str]) -> None:
    """Do in a forked process what Python does with a command line, and end it."""
    status: Any = 1
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # that by which Popen hears of a start, too
        encoding = environment.get("PYTHONIOENCODING")
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding=encoding)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding=encoding)  # noqa: SIM115
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # of who forked, as a launcher that ends its processes
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        logging.getLogger().handlers.clear()
        os.environ.clear()
        os.environ.update(environment)
        if command[0] == "-u":
            command = command[1:]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("fmnist_lit", "scripts")]:
            del sys.modules[name]  # what is ours is imported anew
        sys.argv = command[1:] if command[0] == "-m" else command
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(*arguments: str, kind: type[subprocess.Popen[str]] = Forked) -> subprocess.Popen[str]:
    """Start train.py as a process of its own."""
    command = [sys.executable, "train.py", *arguments]
    return kind(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children(process: int) -> list[int]:
    """Return the processes that a process has started, the first first."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def alive(process: int) -> bool:
    """Whether a process is there and has not ended."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def outcome(directory: Path) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    """Return what a run gave, but for its times: last weights, history, metrics."""
    weights = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    with (directory / "history.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    metrics = json.loads((directory / "metrics.json").read_bytes())
    return (
        weights,
        rows,
        {k: v for k, v in metrics.items() if "second" not in k and k not in ("commit", "date")},
    )


def run_on_two(config: Config, directory: Path, resumed: bool = False) -> None:
    """Train in two processes, forked from this one, so that they import nothing; told what torchrun tells."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def work(rank: str) -> None:
        told = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "0",
        }
        os.environ.update(told, MASTER_ADDR="localhost", MASTER_PORT=port, TORCHELASTIC_RUN_ID="test")
        if rank == "0":
            log_to_console()
        run(config, directory, {"model": "small"}, "", resumed)

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in "01"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def is_valid(checkpoint: Path) -> bool:
    """Whether a checkpoint is there and what it holds is what was written."""
    try:
        load_checkpoint(checkpoint)
    except UserError:
        return False
    return True


@pytest.fixture(scope="session")
def composed() -> Callable[..., Config]:
    """Compose a config from overrides, as the command line would."""

    @cache
    def compose_once(here: Path, *overrides: str) -> Config:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return resolved(compose("config", list(overrides)))

    return lambda *overrides: deepcopy(compose_once(Path.cwd(), *overrides))


@pytest.fixture(scope="session")
def trained(composed: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Train a small config and return its run directory and metrics."""

    def train(
        *overrides: str, directory: Path | None = None, callbacks: Sequence[Any] = ()
    ) -> tuple[Path, Config]:
        config = composed(*SMALL, *overrides)
        check(config)
        directory = directory or tmp_path_factory.mktemp("run")
        command = " ".join(["python train.py", *overrides])
        metrics = run(config, directory, {"model": "small"}, command, callbacks=callbacks)
        return directory, metrics

    return train


@pytest.fixture(scope="session")
def runs(trained: Callable[..., Any]) -> dict[str, Path]:
    """Two finished runs, to read only."""
    return {name: trained(f"model={name}", "trainer.max_epochs=3")[0] for name in ("mlp4", "cnn_b")}


@pytest.fixture
def run_copy(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a run, moved to another folder."""
    ignored = shutil.ignore_patterns("evaluation", "export", "curves.png")
    return Path(shutil.copytree(runs["mlp4"], tmp_path / "moved" / "run", ignore=ignored))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server of a folder: its address and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))  # seconds until it sees its end
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}/", folder
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """A resume logs to the terminal from then on; other tests shall not."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
