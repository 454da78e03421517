"""train.py as a user calls it: exit statuses, messages, sweeps."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures import ROOT, SMALL, Answer, answer_in_process
from tests.fixtures import start as forked


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command."""
    command = [sys.executable, "train.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def train(*arguments: str) -> Answer:
    """Run the command in this process, without six seconds of imports."""
    status, said, message = answer_in_process(list(arguments))
    return Answer(int(status or 0), said, message)


def options(group: str) -> list[str]:
    """List the options of a group as its folder holds them."""
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))


# The fault, the exit status, and what the message must name.
FAULTS = {
    "model=cnn_d": (2, ["model=cnn_d", *options("model")]),
    "experiment=five_models/cnn_d": (2, ["experiment=five_models/cnn_d", "Did you mean five_models/cnn_"]),
    "experiment=cnn_c": (2, ["experiment=cnn_c", "augmentation/mlp", "batch_size/bs100"]),
    "hydra/launcher=slrum": (2, ["hydra/launcher=slrum", "Did you mean slurm? Choices: basic, "]),
    "trainer.accelerator=tpu": (2, ["trainer: ", "torch_xla"]),
    "modle=cnn_c": (2, ["modle", "Did you mean model?"]),
    "optim.lrr=0.1": (2, ["optim.lrr", "Did you mean lr?", "momentum"]),
    "optim.lr=${foo}": (2, ["foo", "optim.lr"]),
    "seed=???": (2, ["seed"]),
    "optim=[": (2, ["optim=["]),
    "=3": (2, ["override"]),
    "seed=0,1": (2, ["seed=0,1", "--multirun"]),
    "~model": (2, ["model"]),
    "patch.size=5": (2, ["patch.size=5", "2, 4, 7 or 14"]),
    "trainer.max_epochs=-3": (2, ["trainer.max_epochs=-3", "1 or more"]),
    "data.val_fraction=1.5": (2, ["data.val_fraction=1.5", "less than 1"]),
    "hydra.run.dir=LICENSE/run": (1, ["LICENSE", "Not a directory"]),
    "output_dir=LICENSE": (1, ["LICENSE"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_gets_one_message(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    status, parts = FAULTS[fault]
    where = [] if "dir=" in fault else [f"output_dir={tmp_path}"]
    answer = answer_in_process([*where, fault])
    assert answer[:2] == (status, "")
    message = answer[2]
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


@pytest.mark.parametrize("text", [b"a: [\n", b"a: 1\n\tb: 2\n", b"a: 1\na: 2\n", b"a: !!python/none x\n"])
def test_a_config_of_the_user_that_is_no_yaml_is_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_bytes(b"_target_: torch.nn.Flatten\n" + text)
    status, _, said = train(f"--config-dir={tmp_path}", "model=mine")
    assert status == 2
    assert len(said.splitlines()) == 1, said
    assert "mine.yaml" in said


def test_a_process_says_the_same(tmp_path: Path) -> None:
    where, fault = f"output_dir={tmp_path}", "model=cnn_d"
    answer = start(where, fault)
    assert (answer.returncode, answer.stdout, answer.stderr) == answer_in_process([where, fault])
    assert answer.returncode == 2
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_a_run_and_its_directory(tmp_path: Path) -> None:
    process = forked(*SMALL, "model=mlp4", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    printed, message = process.communicate(timeout=120)
    assert (process.returncode, message) == (0, "")
    assert "Device: cpu" in printed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"{metrics['test']['accuracy']:.4f}" in printed
    assert metrics["command"].startswith("python train.py data=synthetic")
    written = (tmp_path / "run" / "train.log").read_text()
    assert "Device: cpu" in written
    assert "epoch 1/1" in written

    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = train(*SMALL, "model=cnn_b", "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_a_sweep_survives_a_failed_job_and_ends_with_a_table(tmp_path: Path) -> None:
    jobs = ("model=mlp4,cnn_a", "patch=none,shared", "seed=0,1")
    answer = train("-m", *SMALL, *jobs, "debug=fast", f"hydra.sweep.dir={tmp_path}/sweep")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    table = answer.stdout[answer.stdout.index("8 jobs, best validation accuracy first") :]
    assert table.count("needs an MLP") == 2
    finished = {path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json")}
    failed = {path.parent.name for path in (tmp_path / "sweep").glob("*/failure.json")}
    assert (len(finished), len(failed)) == (6, 2)
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    order = [row[3].strip() for row in rows if row[1].strip()]
    assert order[:6] == sorted(order[:6], reverse=True)
    assert order[6:] == ["failed", "failed"]


def test_a_sweep_without_failures_ends_with_status_0(tmp_path: Path) -> None:
    answer = train("-m", *SMALL, "model=mlp4", "seed=0,1", "debug=fast", f"hydra.sweep.dir={tmp_path}/sweep")
    assert answer.returncode == 0, answer.stderr
    assert "2 jobs" in answer.stdout
    again = train("-m", *SMALL, "model=cnn_b", "seed=2,3", "debug=fast", f"hydra.sweep.dir={tmp_path}/sweep")
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    assert "mlp4" in (tmp_path / "sweep" / "0" / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.parametrize(
    "jobs", [("model=cnn_a,cnn_d",), ("optim=adam,sgd", "optim.momentum=0.5"), ("seed=range(0,0)",)]
)
def test_a_sweep_that_cannot_be_composed_leaves_nothing(jobs: tuple[str, ...], tmp_path: Path) -> None:
    answer = train("-m", *jobs, f"output_dir={tmp_path}/out")
    assert answer.returncode in (1, 2)
    assert "Traceback" not in answer.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_command_in_the_record_can_be_given_to_a_shell(tmp_path: Path) -> None:
    answer = train(*SMALL, "model=mlp4", "model.hidden=[20,10]", "debug=fast", f"output_dir={tmp_path}/a b")
    assert answer.returncode == 0, answer.stderr
    (path,) = (tmp_path / "a b").rglob("metrics.json")
    command = json.loads(path.read_text())["command"]
    assert shlex.split(command)[2:] == [
        *SMALL,
        *("model=mlp4", "model.hidden=[20,10]"),
        "debug=fast",
        f"output_dir={tmp_path}/a b",
    ]


def test_tracebacks_are_shown_on_demand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    answer = start("model=cnn_d", f"output_dir={tmp_path}")
    assert answer.returncode == 2
    assert "Traceback" in answer.stderr
