"""Sweeps that are stopped and started again, and jobs that share the cores."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fmnist_lit import sweeps
from fmnist_lit.errors import UsageError
from tests.conftest import SMALL
from tests.test_command_line import train

# A cluster of one machine. sbatch starts every task of an array at once; sacct knows nothing better than
# that they run; srun leaves its own options out.
CLUSTER = {
    "sbatch": """#!/usr/bin/env python3
import os, re, subprocess, sys
tasks = int(re.search(r"--array=0-(\\d+)", open(sys.argv[1]).read())[1]) + 1
names = "SLURM_NODEID SLURM_PROCID SLURM_LOCALID SLURM_ARRAY_TASK_ID".split()
for task in range(tasks):
    job = dict.fromkeys(names, "0") | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NAME": "a"}
    job |= {"SLURM_JOB_ID": f"7{task}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen(["bash", sys.argv[1]], env=os.environ | job, **quiet)
print("Submitted batch job 7")
""",
    "srun": """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in --output | --error) shift 2 ;; *) shift ;; esac; done
exec "$@"
""",
    "sacct": """#!/bin/bash
echo "JobID|State|NodeList"
for task in 0 1 2; do echo "7_$task|RUNNING|localhost"; done
""",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name, script in CLUSTER.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_sweep_with_a_name_does_what_is_missing(tmp_path: Path, cluster: Path) -> None:
    """Of three jobs one is finished, one was stopped, one never started; on a cluster first, then here."""
    command = ("-m", *SMALL, "model=mlp4,cnn_a,cnn_c", "debug=fast", f"output_dir={tmp_path}", "name=night")
    first = train(*command, "hydra/launcher=slurm")
    assert first.returncode == 0, first.stderr
    sweep = tmp_path / "sweeps" / "night"
    assert {path.name for path in (sweep / ".submitit").glob("7_?")} == {"7_0", "7_1", "7_2"}
    jobs = [sweep / str(number) for number in range(3)]
    figures = [json.loads((job / "metrics.json").read_bytes()) for job in jobs]
    before = (jobs[0] / "metrics.json").stat()
    (jobs[1] / "metrics.json").unlink()
    for path in sorted(jobs[2].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    again = train(*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert again.returncode == 0, again.stderr
    assert "Job 0 is finished already." in again.stdout
    assert "Resumed from" in again.stdout
    assert "3 jobs, best validation accuracy first" in again.stdout
    assert (jobs[0] / "metrics.json").stat() == before
    for job, kept in zip(jobs, figures, strict=True):
        now = json.loads((job / "metrics.json").read_bytes())
        assert now["test"] == kept["test"]

    other = train(*command, "optim.lr=0.5")
    assert other.returncode == 2
    assert other.stderr == (
        "error: name=night: a sweep of that name ran with another command: optim.lr=0.5 is new.\n"
    )


def test_without_a_cluster_a_sweep_says_so(tmp_path: Path) -> None:
    answer = train("-m", *SMALL, "hydra/launcher=slurm", "model=mlp4,cnn_a", f"output_dir={tmp_path}")
    assert answer.returncode == 2
    assert "slurm cluster" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not list((tmp_path / "sweeps").iterdir())


def test_a_change_in_conf_is_named_and_how_a_sweep_runs_may_change(tmp_path: Path) -> None:
    config: dict[str, Any] = {"optim": {"lr": 0.1, "momentum": 0.9}, "threads": 1}
    sweeps.begin_sweep(tmp_path / "a", "a", ["seed=0,1"], config)
    command = ["seed=0,1", "threads=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweeps.begin_sweep(tmp_path / "a", "a", command, config | {"threads": 2})
    sweeps.begin_sweep(tmp_path / "b", "b", ["seed=0,1", "model=a,b"], config)
    with pytest.raises(UsageError, match="the order was seed=0,1 model=a,b"):
        sweeps.begin_sweep(tmp_path / "b", "b", ["model=a,b", "seed=0,1"], config)
    with pytest.raises(UsageError, match=r"optim\.lr was 0\.1, is 0\.2"):
        sweeps.begin_sweep(tmp_path / "a", "a", ["seed=0,1"], {"optim": {"lr": 0.2, "momentum": 0.9}})


@pytest.mark.parametrize(
    ("n_jobs", "threads"), [(1, 8), (2, 4), (3, 2), (-1, 1), (-2, 1), (16, 1), (None, 8)]
)
def test_jobs_at_a_time_share_the_cores(
    n_jobs: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    target = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
    assert sweeps.threads_for({"_target_": target, "n_jobs": n_jobs}) == threads
    assert sweeps.threads_for({"_target_": target, "n_jobs": n_jobs}, devices=2) == max(1, threads // 2)
    assert (
        sweeps.threads_for({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}) is None
    )
