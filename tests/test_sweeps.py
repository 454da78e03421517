"""Sweeps that are stopped and started again, and jobs that share the cores."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

import scripts.report
import scripts.results
from fmnist_lit import sweeps
from fmnist_lit.config import check_whole
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.readers.sweep_table import sweep_summary
from tests.fixtures import SMALL, alive, answer_in_process, call, children, start, wait_for
from tests.test_command_line import train

# A cluster of one machine. sbatch starts the tasks of an array at once, which srun forks from one process;
# sacct knows nothing better than that they run.
CLUSTER = {
    "sbatch": """#!PYTHON
import os, re, subprocess, sys
tasks = int(re.search(r"--array=0-(\\d+)", open(sys.argv[1]).read())[1]) + 1
names = "SLURM_NODEID SLURM_PROCID SLURM_LOCALID".split()
job = dict.fromkeys(names, "0") | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NAME": "a"}
job |= {"SLURM_ARRAY_JOB_ID": "7", "TASKS": str(tasks)}
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.Popen(["bash", sys.argv[1]], env=os.environ | job, **quiet)
print("Submitted batch job 7")
""",
    "srun": """#!PYTHON
import os, runpy, sys
import fmnist_lit.app, fmnist_lit.check, fmnist_lit.run
sys.path[0] = ""  # as of python -m, and not this file's
sys.argv = sys.argv[sys.argv.index("-m") + 1 :]  # behind srun's own options and Python's
for task in map(str, range(int(os.environ["TASKS"]))):
    if not os.fork():
        os.environ |= {"SLURM_JOB_ID": f"7{task}", "SLURM_ARRAY_TASK_ID": task}
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        sys.exit()
for _ in range(int(os.environ["TASKS"])):
    os.wait()
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
        (folder / name).write_text(script.replace("PYTHON", sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.long
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

    again = train(*command)
    assert again.returncode == 0, again.stderr
    assert "Resumed from" in (jobs[1] / "train.log").read_text()
    assert "3 jobs, best validation accuracy first" in again.stdout
    assert (jobs[0] / "metrics.json").stat() == before
    for job, kept in zip(jobs, figures, strict=True):
        now = json.loads((job / "metrics.json").read_bytes())
        assert now["test"] == kept["test"]

    other = train(*command, "optim.lr=0.5")
    assert other.returncode == 2
    assert other.stderr.startswith(
        "error: the sweep name=night was begun with another command: optim.lr was 0.01, is 0.5; override "
    )
    assert other.stderr.endswith(" was None, is optim.lr=0.5. Choose another name, or say what it said.\n")


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
    with pytest.raises(UsageError, match="override 1 was seed=0,1, is model=a,b"):
        sweeps.begin_sweep(tmp_path / "b", "b", ["model=a,b", "seed=0,1"], config)
    with pytest.raises(UsageError, match=r"optim\.lr was 0\.1, is 0\.2"):
        sweeps.begin_sweep(tmp_path / "a", "a", ["seed=0,1"], {"optim": {"lr": 0.2, "momentum": 0.9}})


LONG = ("model=cnn_a", "data.images.train=1600", "data.batch_size=16", "trainer.max_epochs=6")


@pytest.mark.long
def test_workers_end_with_a_command_that_was_killed_and_it_can_be_given_again(tmp_path: Path) -> None:
    further = ("callbacks.resume.every_s=1000", f"output_dir={tmp_path}", "name=night", "seed=0,1,2")
    command = ("-m", *SMALL, *LONG, *further)
    two_at_a_time = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start(*command, *two_at_a_time, kind=subprocess.Popen)
    sweep = tmp_path / "sweeps" / "night"
    wait_for(lambda: all((sweep / job / "history.csv").exists() for job in "01"))
    left = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(left) >= 2
    again = train(*command)
    assert again.returncode == 0, again.stderr
    assert "3 jobs, best validation accuracy first" in again.stdout
    assert sum("Resumed from" in log.read_text() for log in sweep.glob("*/train.log")) == 2
    assert not list(sweep.glob("*/failure.json"))
    wait_for(lambda: not any(map(alive, left)))


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    return ["-m", *SMALL, "model=mlp4", "debug=fast", "seed=0,1", f"output_dir={tmp_path}", "name=night"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two jobs."""
    folder = tmp_path_factory.mktemp("finished")
    command = ["-m", *SMALL, "model=mlp4", "debug=fast", "seed=0,1", f"output_dir={folder}", "name=night"]
    status, _, said = answer_in_process(command)
    assert status == 0, said
    return folder


@pytest.fixture
def sweep(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished / "sweeps", tmp_path / "sweeps")
    return tmp_path / "sweeps" / "night"


def test_a_job_that_is_going_on_is_neither_failed_nor_lost(
    command: list[str], sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "WAIT_S", 0)
    (sweep / "0" / "metrics.json").unlink()
    with FileLock(sweep / "0" / ".lock"):
        status, said, message = answer_in_process(command)
    assert status == 1
    assert f"{sweep / '0'}: this run is going on, in another process." in message
    assert states(said)[1:] == ["running"]
    assert "job 0 running" in said
    assert "failed" not in said
    assert not (sweep / "0" / "failure.json").exists()


def rows(said: str) -> list[list[str]]:
    """Return the rows of the table at the end of a sweep."""
    table = said[said.rindex(" jobs, best ") :]
    return [line.split("│") for line in table.splitlines() if line.startswith("│")]


STATES = {
    "unfinished": {},
    "failed: the disk is full": {"failure.json": '{"reason": "the disk is full"}'},
    "failed: failure.json is damaged": {"failure.json": "{"},
    "damaged: ": {"metrics.json": "{"},
}


@pytest.mark.parametrize("state", STATES)
def test_every_table_says_the_same_of_a_job_without_figures(state: str, sweep: Path) -> None:
    (sweep / "0" / "metrics.json").unlink()
    for name, text in STATES[state].items():
        (sweep / "0" / name).write_text(text)
    said, count = sweep_summary(sweep)
    assert count == 1
    assert states(said)[1:] == [state.partition(":")[0]]
    assert f"job 0 {state}" in said
    assert f"{sweep / '0'}: {state}" in call(scripts.results, sweep).stdout.replace("\\", "")
    answer = call(scripts.report, sweep / "0")
    assert state.partition(":")[0] in answer.stderr


NO_JSON = {
    **{"empty": b"", "binary": b"\xff\x00\x80", "cut": b'{"overrides": [', "a number": b"3", "null": b"null"},
    **{"a list": b"[]", "NaN": b"NaN", "nothing in it": b"{}", "endless": b"[" * 100_000},
}


@pytest.mark.parametrize("damage", NO_JSON)
def test_a_damaged_record_of_a_sweep_gets_one_message(damage: str, tmp_path: Path) -> None:
    file = tmp_path / sweeps.SWEEP_FILE
    file.write_bytes(NO_JSON[damage])
    with pytest.raises(UserError) as refused:
        sweeps.begin_sweep(tmp_path, "night", ["seed=0,1"], {"seed": 0})
    assert str(refused.value).startswith(f"{file} is damaged. ")
    assert len(str(refused.value).splitlines()) == 1


def test_a_command_ends_with_the_message_of_a_damaged_record(command: list[str], sweep: Path) -> None:
    (sweep / sweeps.SWEEP_FILE).write_bytes(b"\xff\x00\x80")
    status, said, message = answer_in_process(command)
    assert (status, said) == (1, "")
    assert message.startswith(f"error: {sweep / sweeps.SWEEP_FILE} is damaged. ")
    assert len(message.splitlines()) == 1


def test_a_sweep_goes_on_after_its_damaged_record_was_deleted(command: list[str], sweep: Path) -> None:
    (sweep / sweeps.SWEEP_FILE).unlink()
    status, said, message = answer_in_process(command)
    assert (status, message) == (0, "")
    assert said.count("is finished already.") == 2


NO_METRICS = {
    "test is missing": {"test": None},
    "test is a list": {"test": [1]},
    "val is a number": {"val": 3},
    "accuracy is a text": {"test": {"accuracy": "0.5", "loss": 1.0}},
    "accuracy is NaN": {"val": {"accuracy": float("nan"), "loss": 1.0}},
    "accuracy is above 1": {"val": {"accuracy": 7, "loss": 1.0}},
    "no loss": {"test": {"accuracy": 0.5}},
    "seconds are a text": {"seconds": "1"},
}


def of_jobs(command: list[str], sweep: Path, count: int) -> list[str]:
    """Let a finished sweep have so many jobs, one for each seed; return its command."""
    for number in range(count):
        job = sweep / str(number)
        if number > 1:
            shutil.copytree(sweep / "0", job)
            (job / ".hydra" / "overrides.yaml").write_text(f"[model=mlp4, debug=fast, seed={number}]")
            config = yaml.safe_load((sweep / "0" / "config.yaml").read_text())
            (job / "config.yaml").write_text(yaml.safe_dump(config | {"seed": number}))
    swept = f"seed=range({count})"
    record = (sweep / sweeps.SWEEP_FILE).read_text()
    (sweep / sweeps.SWEEP_FILE).write_text(record.replace("seed=0,1", swept))
    return [swept if word == "seed=0,1" else word for word in command]


def states(said: str) -> list[str]:
    """Return what the table at the end of a sweep says of its jobs, or their accuracy."""
    return [row[3].strip() for row in rows(said) if row[3].strip()]


def test_finished_jobs_with_damaged_figures_are_said_to_be_damaged(command: list[str], sweep: Path) -> None:
    damages = [*NO_JSON, *NO_METRICS]
    whole = len(damages)
    command = of_jobs(command, sweep, whole + 1)
    for number, damage in enumerate(damages):
        file = sweep / str(number) / "metrics.json"
        figures = json.dumps(json.loads(file.read_bytes()) | NO_METRICS.get(damage, {})).encode()
        file.write_bytes(NO_JSON.get(damage, figures))
    status, said, message = answer_in_process(command)
    assert status == 1
    assert f"Job {whole} is finished already." in said
    assert said.count("is finished already.") == 1
    assert states(said)[1:] == ["damaged"] * whole
    for number, line in enumerate(message.splitlines()):
        assert line.startswith("error: ")
        assert str(sweep / str(number) / "metrics.json") in line, damages[number]
        assert f"job {number} damaged: {sweep / str(number) / 'metrics.json'}" in said
    assert len(message.splitlines()) == whole


NO_CONFIG = {"empty": b"", "binary": b"\xff\x00\x80", "cut": b"a: [1", "a number": b"3", "a list": b"- 1"}


def test_jobs_with_a_damaged_config_are_told_and_the_others_go_on(command: list[str], sweep: Path) -> None:
    """Of each damage one job is finished and one is not."""
    damages = [*NO_CONFIG.values(), *NO_CONFIG.values()]
    whole = len(damages)
    command = of_jobs(command, sweep, whole + 1)
    for number, damage in enumerate(damages):
        (sweep / str(number) / "config.yaml").write_bytes(damage)
        if number < len(NO_CONFIG):
            (sweep / str(number) / "metrics.json").unlink()
    status, said, message = answer_in_process(command)
    assert status == 1
    assert f"Job {whole} is finished already." in said
    assert sorted(states(said)[1:]) == ["damaged"] * len(NO_CONFIG) + ["failed"] * len(NO_CONFIG)
    for number, line in enumerate(message.splitlines()):
        assert line.startswith("error: ")
        assert str(sweep / str(number) / "config.yaml") in line
        state = "failed" if number < len(NO_CONFIG) else "damaged"
        assert f"job {number} {state}: " in said
    assert len(message.splitlines()) == whole
    assert said.count("config.yaml") >= whole


def test_what_tells_jobs_apart_may_be_damaged_and_moves_no_cursor(sweep: Path) -> None:
    (sweep / "0" / ".hydra" / "overrides.yaml").write_bytes(b"a: [1")
    (sweep / "1" / ".hydra" / "overrides.yaml").write_text(r'["seed=\e[2J", "${oc.env:HOME}"]')
    said, count = sweep_summary(sweep)
    assert count == 0
    assert "\x1b" not in said
    assert "${oc.env:HOME}" in said


NO_NAMES = ["..", "a/b", "/tmp/esc", "", "-a", "a\nb", "ä" * 101]
# What is refused, and the way on that the message names.
ASTRAY = {
    "name=../../esc": "letters, digits",
    "name='\x1b[2J'": "letters, digits",
    f"name={'a' * 201}": "200 bytes at most",
    "name=choice(a,b)": "Give one name",
    "name=../a,../b": "Give one name",
    "output_dir=a,b": "Give one output_dir or none; the table at the end says in which keys jobs differ. "
    "One with commas is quoted: \"output_dir='a,b'\"",
    "output_dir=''": "not empty",
    "hydra.sweep.subdir=../x": "${hydra:job.num}",
    "hydra.sweep.subdir='../${hydra:job.num}'": "below the sweep's",
    "hydra.sweep.subdir='/${hydra:job.num}'": "below the sweep's",
    "hydra.sweep.subdir='${model}'": "no two jobs share it",
    "hydra.sweep.subdir=''": "no two jobs share it",
    "name=a,b": "Give one name",
    "hydra.sweep.subdir=same": "no two jobs share it",
}


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"letters, digits|200 bytes at most"):
        check_whole({"name": name, "output_dir": "outputs"})


@pytest.mark.parametrize("override", ASTRAY)
def test_a_sweep_that_would_lose_its_jobs_is_refused(override: str, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    status, said, message = answer_in_process(["-m", "seed=0,1", f"output_dir={inner}", override])
    assert (status, said) == (2, "")
    assert message.startswith("error: ")
    assert ASTRAY[override] in message
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", inner], "nothing may be left behind"


@pytest.mark.parametrize(
    ("swept", "jobs"), [("seed=range(200)", 200), ("seed=0,1,2,3,4 model=choice(mlp4,cnn_a)", None)]
)
def test_a_large_sweep_says_what_it_does_before_its_first_job(
    swept: str, jobs: int | None, tmp_path: Path
) -> None:
    """The sweep is refused behind that, so that nothing is composed."""
    folder = tmp_path / "sweeps" / "night"
    folder.mkdir(parents=True)
    (folder / sweeps.SWEEP_FILE).write_text("{")
    status, said, _ = answer_in_process(["-m", *swept.split(), f"output_dir={tmp_path}", "name=night"])
    assert status == 1
    assert (f"Composing {jobs} jobs" in said) == bool(jobs)
    assert bool(said) == bool(jobs)


def test_a_sweep_of_conf_that_would_lose_its_jobs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    text = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {name: 'a,b'}}}"
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    command = ["sweep=mine", f"hydra.searchpath=[file://{tmp_path}]", f"output_dir={tmp_path}/out"]
    status, _, message = answer_in_process(command)
    assert status == 2
    assert message.startswith("error: name=a,b: a sweep has one name")
    assert not (tmp_path / "out").exists()


def test_all_jobs_lie_below_one_folder_whatever_it_is_made_of(tmp_path: Path) -> None:
    folder = f"hydra.sweep.dir='{tmp_path}/a b/$x/${{hydra:runtime.choices.model}}'"
    subdir = "hydra.sweep.subdir='seed ${seed}/${hydra:job.num}'"
    jobs = ("model=cnn_b,cnn_a", "seed=0,0", "debug=fast")
    status, said, message = answer_in_process(["-m", *SMALL, *jobs, folder, subdir])
    assert (status, message) == (0, "")
    assert "4 jobs, best validation accuracy first" in said
    assert len(rows(said)) == 4
    (sweep,) = (tmp_path / "a b" / "$x").iterdir()
    assert len(list(sweep.rglob("metrics.json"))) == 4
