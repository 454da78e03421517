"""Composing and running small configs in process, on drawn images."""

import csv
import io
import json
import runpy
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fmnist_lit import launch  # noqa: F401 (registers the resolvers that conf/ uses)
from fmnist_lit.config import check, resolved
from fmnist_lit.launch import ASKED, FULL_ERROR, Command
from fmnist_lit.run import run

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


class Answer(NamedTuple):
    """What a script printed and its exit status."""

    returncode: int
    stdout: str
    stderr: str


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


def outcome(directory: Path) -> tuple[Any, list[dict[str, str]], dict[str, Any]]:
    """Return what a run gave, but for its times: last weights, history, metrics."""
    weights = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    with (directory / "history.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]
    metrics = json.loads((directory / "metrics.json").read_bytes())
    return weights, rows, {k: v for k, v in metrics.items() if "second" not in k and k != "commit"}


@pytest.fixture(scope="session")
def composed() -> Callable[..., Config]:
    """Compose a config from overrides, as the command line would."""

    def compose_config(*overrides: str) -> Config:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return resolved(compose("config", list(overrides)))

    return compose_config


@pytest.fixture(scope="session")
def trained(composed: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Train a small config and return its run directory and metrics."""

    def train(*overrides: str, directory: Path | None = None) -> tuple[Path, Config]:
        config = composed(*SMALL, *overrides)
        check(config)
        directory = directory or tmp_path_factory.mktemp("run")
        metrics = run(config, directory, {"model": "small"}, " ".join(["python train.py", *overrides]))
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
