"""Two processes that train one model: what one process would have trained, whatever happens to them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

from fmnist_lit.check import check
from fmnist_lit.checkpoints import LAST
from fmnist_lit.distributed import world_size
from fmnist_lit.errors import UserError
from fmnist_lit.logs import log_to_console
from fmnist_lit.run import run
from tests.fixtures import (
    ROOT,
    SMALL,
    Forked,
    alive,
    answer_in_process,
    children,
    is_valid,
    outcome,
    run_on_two,
    start,
    wait_for,
)

TWO = ("trainer=ddp", "trainer.accelerator=cpu")
# 160 training images in batches of 53: the last batch has one image, so one rank has none.
UNEVEN = ("data.batch_size=53", "trainer.precision=64-true")
RECIPES = {
    "mlp4": (
        *("model=mlp4", "model.dropout=0", "augment=shift_flip", "label_smoothing=0.1"),
        *("trainer.gradient_clip_val=0.5", "ema_decay=0.9", "schedule=plateau", "optim=adam"),
    ),
    "cnn_b": ("model=cnn_b",),
}
# 1,280 training images: two groups of batches an epoch, and a checkpoint after each.
EPOCHS = 5
DROPOUT = (
    *("model=block_cnn", "model.filters=4", "model.depth=1", "model.dropout=0.5"),
    *("data.images.train=1600", "data.batch_size=16", f"trainer.max_epochs={EPOCHS}"),
    "callbacks.resume.every_s=0",
)


@pytest.fixture(autouse=True)
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyTorch's launcher starts, in this process and in those forked from it, is forked, too."""
    monkeypatch.setattr(subprocess_handler, "Popen", Forked)
    # It looks through all modules for a name that nobody reads: seconds, with as many as are imported here.
    monkeypatch.setattr(dynamic_rendezvous, "get_method_name", lambda depth=2: "")


def train(composed: Any, directory: Path, *overrides: str, resumed: bool = False) -> Path:
    """Train in the given directory, in this process or in two others."""
    config = composed(*SMALL, *overrides)
    check(config)
    directory.mkdir(exist_ok=True)
    if world_size(config) == 2:
        run_on_two(config, directory, resumed)
    else:
        log_to_console()
        run(config, directory, {"model": "small"}, "", resumed)
    return directory


def command_on_two_ranks(directory: Path) -> tuple[str, ...]:
    return (*SMALL, *DROPOUT, *TWO, f"hydra.run.dir={directory}")


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process numbers of the ranks that a command has started, the first rank's first."""
    ranks = children(process.pid)
    assert len(ranks) == 2
    return ranks


def ended(process: subprocess.Popen[str], ranks: list[int]) -> str:
    """Wait for the end of a command that leaves nothing behind; return its message."""
    _, said = process.communicate(timeout=120)
    assert not any(map(alive, ranks))
    return said


def assert_same_training(first: Path, second: Path) -> None:
    (weights, rows, metrics), (others, other_rows, other_metrics) = outcome(first), outcome(second)
    for row, other in zip(rows, other_rows, strict=True):
        assert row == other
    assert metrics["test"] == other_metrics["test"]
    for name in weights:
        assert torch.equal(weights[name], others[name]), name


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
    assert other_metrics["device"].endswith("2 processes")
    assert sorted(p.name for p in together.rglob("*")) == sorted(p.name for p in alone.rglob("*"))


def test_a_checkpoint_evaluates_to_the_same_figures_on_two_ranks(composed: Any, tmp_path: Path) -> None:
    """BatchNorm, single precision, 160 images in 13 batches, mirror images: the sums alone are added anew."""
    overrides = ("model=cnn_c", "data.eval_batch_size=13", "augment.affine.flip=0.5")
    alone = train(composed, tmp_path / "alone", *overrides)
    together = tmp_path / "together"
    shutil.copytree(alone, together)
    (together / "metrics.json").unlink()
    (together / "config.yaml").write_text(OmegaConf.to_yaml(composed(*SMALL, *overrides, *TWO)))
    train(composed, together, *overrides, *TWO, resumed=True)  # nothing is left but to test
    metrics, others = outcome(alone)[2], outcome(together)[2]
    for part in ("train", "val", "test", "test_flipped"):
        assert others[part]["accuracy"] == metrics[part]["accuracy"]
        assert others[part]["loss"] == pytest.approx(metrics[part]["loss"], rel=1e-12)


# As in several runs of one srun, one torchrun, one mpirun.
CLUSTERS = {
    "srun": {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7"},
    "torchrun or mpirun": {
        **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "1", "GROUP_RANK": "1"},
        **{"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1"},
        **{"PMI_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "JSM_NAMESPACE_RANK": "1"},
        **{"OMPI_COMM_WORLD_SIZE": "2", "JSM_NAMESPACE_SIZE": "2"},
    },
}
WATCHED = ("model=mlp4", "debug=fast", "logger=tensorboard")


def files(directory: Path) -> list[str]:
    """Return the names of a run's files, without times and Hydra's own."""
    names = [path.name.partition(".tfevents")[0] for path in directory.rglob("*")]
    return sorted(set(names) - {".hydra", "hydra.yaml", "overrides.yaml", "train.log"})


def tags(directory: Path) -> dict[str, Any]:
    (folder,) = {file.parent for file in directory.glob("**/events.out.tfevents.*")}
    found: dict[str, Any] = EventAccumulator(str(folder)).Reload().Tags()
    return found


@pytest.mark.parametrize(
    ("cluster", "kind"), [("srun", subprocess.Popen), ("torchrun or mpirun", Forked)], ids=CLUSTERS
)
def test_a_run_is_whole_whatever_a_cluster_says_of_ranks(
    cluster: str, kind: Any, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, _ = trained(*WATCHED)
    for name, value in CLUSTERS[cluster].items():
        monkeypatch.setenv(name, value)
    if kind is Forked:  # Lightning takes it from the environment when it is imported
        monkeypatch.setattr(rank_zero_only, "rank", 1)
    process = start(*SMALL, *WATCHED, f"hydra.run.dir={tmp_path}", kind=kind)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    assert files(tmp_path) == files(elsewhere)
    assert tags(tmp_path) == tags(elsewhere)


def test_a_run_goes_on_on_another_number_of_ranks(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On more, then on fewer; on a cluster that numbers tasks of its own."""
    recipe = ("model=mlp4", "model.dropout=0.5", "debug=fast")
    settings = [("trainer.max_epochs=1",), ("trainer.max_epochs=2", *TWO), ("trainer.max_epochs=3",)]
    monkeypatch.setenv("SLURM_PROCID", "1")
    for number, further in enumerate(settings):
        config = composed(*SMALL, *recipe, "logger=tensorboard", *further)
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
        train(composed, tmp_path, *recipe, "logger=tensorboard", *further, resumed=True)
        assert len(outcome(tmp_path)[1]) == number + 1
        assert len(list(tmp_path.glob("**/events.out.tfevents.*"))) >= number + 1
        (tmp_path / "metrics.json").unlink()
    assert "Saved on 2 processes, resumed on 1" in (tmp_path / "train.log").read_text()


@pytest.fixture(scope="module")
def undisturbed(composed: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(composed, tmp_path_factory.mktemp("undisturbed"), *DROPOUT, *TWO)


def test_after_a_dead_rank_and_a_signal_a_run_goes_on_to_the_same_bits(
    undisturbed: Path, composed: Any, tmp_path: Path
) -> None:
    last = tmp_path / "checkpoints" / LAST
    process = start(*command_on_two_ranks(tmp_path))
    wait_for(last.exists)
    ranks = ranks_of(process)
    os.kill(ranks[1], signal.SIGKILL)
    message = f"rank 1 was ended by SIGKILL, and the others with it. Last good checkpoint: {last}"
    assert ended(process, ranks) == f"error: {message}\n"
    assert process.returncode == 1
    assert json.loads((tmp_path / "failure.json").read_bytes())["reason"] == message

    step = torch.load(last, weights_only=True)["global_step"]
    assert step < EPOCHS * 80
    saved = last.stat().st_mtime_ns
    process = start(f"resume={tmp_path}")
    wait_for(lambda: last.stat().st_mtime_ns > saved)
    ranks = ranks_of(process)
    process.send_signal(signal.SIGTERM)
    said = ended(process, ranks)
    assert said == f"interrupted by SIGTERM. To go on: python train.py resume={tmp_path}\n"
    assert process.returncode == 143

    train(composed, tmp_path, *DROPOUT, *TWO, resumed=True)
    assert_same_training(tmp_path, undisturbed)


def first_started(args: Sequence[str], env: Mapping[str, str], **further: Any) -> subprocess.Popen[Any]:
    """Start the first rank as PyTorch's launcher does; fork the other."""
    return (subprocess.Popen if env["RANK"] == "0" else Forked)(args, env=env, **further)


@pytest.mark.long
def test_ranks_end_with_a_launcher_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_handler, "Popen", first_started)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # what is killed cannot tidy up
    process = start(*command_on_two_ranks(tmp_path))
    wait_for((tmp_path / "checkpoints" / LAST).exists)
    ranks = ranks_of(process)
    process.kill()
    process.communicate(timeout=120)
    wait_for(lambda: not any(map(alive, ranks)))
    assert is_valid(tmp_path / "checkpoints" / LAST)
    assert not (tmp_path / "metrics.json").exists()


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    """Start the real command as somebody's own torchrun does."""
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    return Forked(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_torchrun_on_two_machines_trains_the_same(tmp_path: Path, undisturbed: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meet = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}")
    overrides = (*SMALL, *DROPOUT, *TWO, "trainer.devices=1", "trainer.num_nodes=2", "name=both")
    machines = [torchrun(*meet, "train.py", *overrides, f"output_dir={tmp_path}") for _ in range(2)]
    for machine in machines:
        said = machine.communicate(timeout=120)
        assert machine.returncode == 0, said
    assert [run.name for run in (tmp_path / "runs").iterdir()] == ["both"]
    assert_same_training(tmp_path / "runs" / "both", undisturbed)


def test_several_machines_are_for_torchrun(composed: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchrun --nnodes 2 --nproc-per-node 2"):
        run(composed(*SMALL, "model=mlp4", *TWO, "trainer.num_nodes=2"), tmp_path, {}, "")


def test_a_sweep_of_distributed_jobs_leaves_a_directory_for_each(tmp_path: Path) -> None:
    swept = ("model=cnn_a", "debug=fast", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    status, said, error = answer_in_process(["-m", *SMALL, *TWO, *swept])
    assert (status, error) == (0, "")
    assert "2 jobs" in said
    assert len(list(tmp_path.glob("**/metrics.json"))) == len(list(tmp_path.glob("**/config.yaml"))) == 2


def test_a_rank_tells_why_it_failed(composed: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the training loss is (nan|inf) at step \d+ .*training diverged"):
        run(composed(*SMALL, "model=mlp4", "optim.lr=1e30", *TWO), tmp_path, {}, "")
