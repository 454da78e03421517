"""The CPU threads of a run: one for each core that other programs leave idle."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fmnist_lit import run as run_module
from fmnist_lit import threads
from fmnist_lit.config import read_config, read_origin
from fmnist_lit.run import run
from tests.fixtures import SMALL, Config


@pytest.fixture(autouse=True)
def nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.SAID:
        monkeypatch.delenv(name, raising=False)


def counts(
    monkeypatch: pytest.MonkeyPatch, cores: int, idle: float, own: float, seconds: float = 4.0
) -> None:
    """Let the system have counted so much since the start."""
    monkeypatch.setattr(threads, "own_cores", lambda: set(range(cores)))
    monkeypatch.setattr(threads, "FIRST", threads.Look(100.0, 50.0, 7.0))
    monkeypatch.setattr(threads, "look", lambda: threads.Look(100.0 + seconds, 50.0 + idle, 7.0 + own))
    monkeypatch.setattr(threads.time, "monotonic", lambda: 100.0 + seconds)


@pytest.mark.parametrize(
    ("cores", "idle", "own", "most", "taken"),
    [
        (2, 4.0, 4.0, 2, 2),  # nobody else
        (2, 3.2, 4.0, 2, 2),  # a desktop: a fifth of a core
        (2, 0.0, 4.0, 2, 1),  # a program on the other core
        (2, 0.0, 2.7, 2, 1),  # two on both: the share of a third
        (2, 0.0, 0.0, 2, 1),  # a system that counts nothing
        (16, 44.0, 4.0, 16, 12),  # four of sixteen cores are busy
        (16, 44.0, 4.0, 8, 6),  # PyTorch leaves out the second thread of each core
        (1, 0.0, 4.0, 1, 1),
    ],
)
def test_threads_are_those_that_find_a_core(
    cores: int, idle: float, own: float, most: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(monkeypatch, cores, idle, own)
    assert threads.free_threads(most) == taken


@pytest.mark.parametrize("seconds", [0.01, 3600.0])
def test_a_start_just_now_or_long_ago_says_nothing_of_the_cores(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts(monkeypatch, 2, idle=2 * seconds, own=0.0, seconds=seconds)
    looks = iter([threads.Look(0.0, 0.0, 0.0), threads.Look(0.2, 0.0, 0.2)])
    monkeypatch.setattr(threads, "look", lambda: next(looks))
    monkeypatch.setattr(threads.time, "sleep", lambda _: None)
    assert threads.free_share() == pytest.approx(0.5)


def test_what_a_user_sets_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts(monkeypatch, 2, idle=0.0, own=4.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.free_threads(2) == 2


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """Two programs on each core."""
    program = [sys.executable, "-c", "while True: pass"]
    started = [subprocess.Popen(program) for _ in range(2 * len(threads.own_cores()))]
    yield
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy_cores")
def test_busy_cores_leave_one_thread() -> None:
    asked = "from fmnist_lit.threads import free_threads; print(free_threads(2))"
    assert subprocess.check_output([sys.executable, "-c", asked], text=True) == "1\n"


def test_a_run_says_and_keeps_its_threads_and_a_resume_takes_the_same(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_module, "DEFAULT_THREADS", 3)
    monkeypatch.setattr(run_module, "free_threads", lambda most: most - 1)
    used: list[int] = []
    monkeypatch.setattr(run_module.torch, "set_num_threads", used.append)
    (tmp_path / "a").mkdir()
    config: Config = composed(*SMALL, "model=mlp4", "threads=null", "trainer.max_epochs=1")
    with caplog.at_level("INFO"):
        run(config, tmp_path / "a", {}, "python train.py")
    assert "CPU threads: 2 of 3, for other programs keep the cores busy (threads=3: all)." in caplog.text
    assert read_config(tmp_path / "a")["threads"] == 2

    (tmp_path / "a" / "metrics.json").unlink()
    monkeypatch.setattr(run_module, "free_threads", lambda most: most)
    run(read_config(tmp_path / "a"), tmp_path / "a", *read_origin(tmp_path / "a"), resumed=True)
    assert used == [2, 2]


def test_processes_share_the_threads(composed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "DEFAULT_THREADS", 16)
    config = composed("trainer=ddp", "trainer.devices=4")
    assert run_module.most_threads(config) == 4
    assert run_module.most_threads(composed("trainer=ddp", "trainer.devices=4", "trainer.num_nodes=2")) == 4


@pytest.mark.parametrize(("n_jobs", "taken"), [(1, 8), (2, 4), (3, 2), (-1, 1), (-2, 1), (16, 1), (None, 8)])
def test_jobs_at_a_time_share_the_cores(
    n_jobs: int | None, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    target = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    assert threads.threads_for({"_target_": target, "n_jobs": n_jobs}) == taken
    assert threads.threads_for({"_target_": target, "n_jobs": n_jobs}, devices=2) == max(1, taken // 2)
    basic = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    assert threads.threads_for(basic) is None
