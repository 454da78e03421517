"""Two processes that train one model: what one process would have trained, whatever happens to them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from fmnist_lit.checkpoints import LAST, is_whole
from fmnist_lit.config import check
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.ranks.__main__ import join
from fmnist_lit.run import run
from tests.conftest import ROOT, SMALL
from tests.test_resume import outcome

TWO = ("trainer=ddp", "trainer.accelerator=cpu")
# 160 training images in batches of 53: the last batch has one image, so one rank has none.
UNEVEN = ("data.batch_size=53", "trainer.precision=64-true")
RECIPES = {
    "mlp4": (
        *("model=mlp4", "model.dropout=0", "augment=shift_flip", "label_smoothing=0.1"),
        *("trainer.gradient_clip_val=0.5", "weight_averaging=0.9", "schedule=plateau", "optim=adam"),
    ),
    "cnn_b": ("model=cnn_b",),
}
# 1,280 training images: two groups of batches an epoch, and a checkpoint after each.
DROPOUT = (
    *("model=cnn_c", "data.images.train=1600", "data.batch_size=16", "trainer.max_epochs=8"),
    "callbacks.save_every_s=0",
)


def train(composed: Any, directory: Path, *overrides: str, resumed: bool = False) -> Path:
    """Train in the given directory, in this process or in two others."""
    config = composed(*SMALL, *overrides)
    check(config)
    directory.mkdir(exist_ok=True)
    run(config, directory, {"model": "small"}, "", resumed)
    return directory


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the real command."""
    command = [sys.executable, "train.py", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def start_on_two_ranks(directory: Path, *overrides: str) -> subprocess.Popen[str]:
    return start(*SMALL, *DROPOUT, *TWO, *overrides, f"hydra.run.dir={directory}")


def ended(process: subprocess.Popen[str], directory: Path) -> str:
    """Wait for the end of a command that leaves nothing behind; return its message."""
    _, said = process.communicate(timeout=60)
    assert not (directory / ".ranks").exists()
    assert not rank_processes(directory)
    return said


def assert_same_training(first: Path, second: Path) -> None:
    (weights, rows, metrics), (others, other_rows, other_metrics) = outcome(first), outcome(second)
    assert rows == other_rows
    assert metrics["test"] == other_metrics["test"]
    for name in weights:
        assert torch.equal(weights[name], others[name]), name


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rank_processes(directory: Path) -> list[int]:
    """Return the process numbers of a run's ranks, the first rank's first."""
    found = subprocess.run(["pgrep", "-f", f"ranks.process {directory}"], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_train_the_weights_that_one_process_trains(
    name: str, composed: Any, tmp_path: Path
) -> None:
    alone = train(composed, tmp_path / "alone", *RECIPES[name], *UNEVEN)
    together = train(composed, tmp_path / "together", *RECIPES[name], *UNEVEN, *TWO)
    (weights, rows, metrics), (others, other_rows, other_metrics) = outcome(alone), outcome(together)
    for key, weight in weights.items():
        torch.testing.assert_close(others[key], weight, rtol=0, atol=1e-12)
    for row, other in zip(rows, other_rows, strict=True):
        assert {k: float(v) for k, v in other.items()} == pytest.approx(
            {k: float(v) for k, v in row.items()}, abs=1e-9
        )
    for part in ("train", "val", "test"):
        assert other_metrics[part] == pytest.approx(metrics[part], abs=1e-9)
    assert other_metrics["device"].endswith("2 ranks")
    assert sorted(p.name for p in together.rglob("*")) == sorted(p.name for p in alone.rglob("*"))


def test_a_checkpoint_evaluates_to_the_same_figures_on_two_ranks(composed: Any, tmp_path: Path) -> None:
    """BatchNorm, single precision, 160 images in 13 batches, mirror images: the sums alone are added anew."""
    overrides = ("model=cnn_c", "data.eval_batch_size=13", "augment.flip=0.5")
    alone = train(composed, tmp_path / "alone", *overrides)
    together = tmp_path / "together"
    shutil.copytree(alone, together)
    (together / "metrics.json").unlink()
    (together / "config.yaml").write_text(OmegaConf.to_yaml(composed(*SMALL, *overrides, *TWO)))
    train(composed, together, *overrides, *TWO, resumed=True)  # nothing is left but to test
    metrics, others = outcome(alone)[2], outcome(together)[2]
    for part in ("train", "val", "test", "test_mirrored"):
        assert others[part]["accuracy"] == metrics[part]["accuracy"]
        assert others[part]["loss"] == pytest.approx(metrics[part]["loss"], rel=1e-12)


@pytest.fixture(scope="module")
def undisturbed(composed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(composed, tmp_path_factory.mktemp("undisturbed"), *DROPOUT, *TWO)


def test_after_a_dead_rank_and_a_signal_a_run_goes_on_to_the_same_bits(
    undisturbed: Path, composed: Any, tmp_path: Path
) -> None:
    last = tmp_path / "checkpoints" / LAST
    process = start_on_two_ranks(tmp_path)
    wait_for(last.exists)
    os.kill(rank_processes(tmp_path)[1], signal.SIGKILL)
    message = f"rank 1 was ended by SIGKILL, and the others with it. Last good checkpoint: {last}"
    assert ended(process, tmp_path) == f"error: {message}\n"
    assert process.returncode == 1
    assert json.loads((tmp_path / "failure.json").read_bytes())["reason"] == message

    step = torch.load(last, weights_only=True)["global_step"]
    assert step < 8 * 80
    saved = last.stat().st_mtime_ns
    process = start(f"resume={tmp_path}")
    wait_for(lambda: last.stat().st_mtime_ns > saved)
    process.send_signal(signal.SIGTERM)
    said = ended(process, tmp_path)
    assert said == f"interrupted by SIGTERM. To go on: python train.py resume={tmp_path}\n"
    assert process.returncode == 143

    train(composed, tmp_path, *DROPOUT, *TWO, resumed=True)
    assert_same_training(tmp_path, undisturbed)


def test_ranks_end_with_a_launcher_that_was_killed(tmp_path: Path) -> None:
    process = start_on_two_ranks(tmp_path)
    wait_for((tmp_path / "checkpoints" / LAST).exists)
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not rank_processes(tmp_path))
    assert is_whole(tmp_path / "checkpoints" / LAST)


def test_a_second_machine_joins_through_the_run_directory(tmp_path: Path, undisturbed: Path) -> None:
    process = start_on_two_ranks(tmp_path, "trainer.devices=1", "trainer.num_nodes=2")
    wait_for((tmp_path / ".ranks" / "job.json").exists)
    with pytest.raises(UsageError, match="1 to 1 can join"):
        join(tmp_path, 2)
    join(tmp_path, 1)
    assert ended(process, tmp_path) == ""
    assert_same_training(tmp_path, undisturbed)
    with pytest.raises(UsageError, match="no run of several machines is going on here"):
        join(tmp_path, 1)


def test_a_rank_tells_why_it_failed(composed: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the training loss is (nan|inf) at step \d+ .*training diverged"):
        train(composed, tmp_path, "model=mlp4", "optim.lr=1e30", *TWO)
    assert not (tmp_path / ".ranks").exists()
