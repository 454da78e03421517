"""train.py as a user calls it: exit statuses, messages, sweeps."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.compat.tensorflow_stub.io import gfile

from fmnist_lit import app
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.overrides import flags_first
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


def test_a_signal_before_the_first_job_leaves_nothing_and_says_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "multirun.yaml").touch()
    for name, value in (("sweep", sweep), ("name", "night"), ("status", 0)):
        monkeypatch.setattr(app.Command, name, value)
    for name in (app.ASKED, app.FULL_ERROR):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def train() -> None:
        raise Interrupted(signal.SIGHUP)

    assert app.command_line(train) == 128 + signal.SIGHUP
    assert capsys.readouterr().err == "interrupted by SIGHUP. To go on: the same command again.\n"
    assert not sweep.exists()


# The fault, the exit status, and what the message must name.
FAULTS = {
    "model=cnn_d": (2, ["model=cnn_d", *options("model")]),
    "experiment=five_models/cnn_d": (2, ["experiment=five_models/cnn_d", "Did you mean five_models/cnn_"]),
    "experiment=cnn_c": (2, ["experiment=cnn_c", "augmentation/mlp", "batch_size/bs100"]),
    "hydra/launcher=slrum": (2, ["hydra/launcher=slrum", "Did you mean slurm? Choices: basic, "]),
    "trainer.accelerator=tpu": (2, ["trainer: ", "torch_xla"]),
    "+logger=csv": (2, ["+logger=csv: logger is chosen already; leave out the plus."]),
    "+callbacks=early_stopping": (2, ["+callbacks=early_stopping", "leave out the plus."]),
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


def test_a_run_that_its_images_refuse_leaves_nothing(tmp_path: Path) -> None:
    answer = train(*SMALL, f"output_dir={tmp_path}", "model=mlp4", "+model.classes=5")
    assert answer.stderr == "error: model: it has 5 outputs, and data.images 10 classes.\n"
    assert answer.returncode == 2
    assert not list((tmp_path / "runs").iterdir())


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
    assert "overrides unknown" not in table


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_shows_a_sweep_whole(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    folder = tmp_path / "größe ₤"
    process = forked("-m", *SMALL, "model=mlp4", "seed=0,1", "debug=fast", f'hydra.sweep.dir="{folder}"')
    assert process.stdout is not None
    printed = process.stdout.buffer.read().decode(encoding)
    assert process.wait(120) == 0
    assert "2 jobs, best validation accuracy first" in printed
    assert "\n| 0 " in printed
    assert "\n| 1 " in printed


def test_who_reads_the_first_line_only_ends_nothing(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    process = forked("-m", *SMALL, "model=mlp4", "seed=0,1", "debug=fast", f"hydra.sweep.dir={sweep}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(120) == 0
    assert len(list(sweep.glob("*/metrics.json"))) == 2


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


def test_a_disk_that_is_full_from_the_start_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gfile.LocalFileSystem, "_write", full)
    answer = train(*SMALL, "logger=tensorboard", "debug=fast", f"hydra.run.dir={tmp_path}/run")
    assert answer.returncode == 1
    assert answer.stderr == f"error: {tmp_path / 'run'}: No space left on device\n"
    assert capfd.readouterr().err == ""


def test_flags_stand_anywhere() -> None:
    line = ["model=a", "--config-dir", "options", "seed=1", "-m", "optim=b", "--cfg", "job"]
    assert flags_first(line) == [
        "--config-dir",
        "options",
        "-m",
        "--cfg",
        "job",
        "model=a",
        "seed=1",
        "optim=b",
    ]


def test_a_name_that_is_taken_is_named_with_the_way_on(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    answer = train(*SMALL, "name=mine", f"output_dir={tmp_path}")
    assert answer == Answer(
        2,
        "",
        f"error: name=mine: {run} already holds a run. To go on with it: resume={run}. To start another, "
        "change name=mine.\n",
    )


PROGRAMS = [ROOT / "train.py", ROOT / "src" / "fmnist_lit" / "worker.py", *(ROOT / "scripts").glob("*.py")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_ctrl_c_while_a_program_imports_is_a_line(program: Path) -> None:
    first = next(line for line in program.read_text().splitlines() if line.startswith(("import ", "from ")))
    assert first.startswith("import fmnist_lit.program"), "what is imported before it ends in a traceback"


def test_ctrl_c_that_nobody_catches_is_a_line() -> None:
    source = "import fmnist_lit.program, signal; signal.raise_signal(signal.SIGINT)"
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "interrupted\n")
