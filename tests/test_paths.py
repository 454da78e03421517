"""Paths are meant from the folder of the command line, whoever reads the run later, and from wherever."""

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig

import scripts.data
import scripts.evaluate
import scripts.export
import scripts.report
from fmnist_lit import run as run_module
from fmnist_lit.config import decisive
from fmnist_lit.data import sources
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.readers.run_directory import RunDirectory
from tests.fixtures import answer_in_process, call
from tests.test_data import FAULTS, contents, fill, idx, small_files, spoil

SMALL = ("model=mlp", "model.hidden=[10]", "trainer=cpu", "trainer.max_epochs=1", "threads=1", "logger=none")
READERS = {"evaluate": scripts.evaluate, "export": scripts.export, "report": scripts.report}


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small stand-ins for the official files, which no source has."""
    drawn = drawn_garments(train=100, test=50, seed=0)
    parts = (drawn.train, drawn.train_labels, drawn.test, drawn.test_labels)
    return small_files(monkeypatch, {name: idx(part) for name, part in zip(sources.MD5, parts, strict=True)})


@pytest.fixture
def home(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the command line, with the files in ``mine``; and what Hydra changes is undone."""
    fill(tmp_path / "home" / "mine", files, compressed=True)
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root, before = logging.getLogger(), HydraConfig.instance().cfg
    handlers, level = root.handlers[:], root.level
    yield tmp_path / "home"
    root.handlers[:], root.level = handlers, level
    HydraConfig.instance().cfg = before


def train(*arguments: str) -> tuple[int | str | None, str, str]:
    return answer_in_process([*arguments, *SMALL])


@pytest.mark.parametrize(
    ("folder", "source", "place", "run", "chdir"),
    [
        ("data", "mine", "output_dir=outputs", "outputs/runs/x", "true"),
        ("data", "mine", "output_dir=outputs", "outputs/runs/x", "false"),
        ("./data", "../home/mine", "hydra.run.dir=here/it/is", "here/it/is", "true"),
        ("~/data", "./mine", "output_dir=~/out", "out/runs/x", "true"),
        ("'~/data'", "~/mine", "output_dir='~/out'", "out/runs/x", "false"),
    ],
)
def test_a_run_and_its_data_lie_where_the_command_line_says(
    home: Path, monkeypatch: pytest.MonkeyPatch, folder: str, source: str, place: str, run: str, chdir: str
) -> None:
    where = (f"data.images.folder={folder}", f"data.images.source={source}", place)
    status, _, message = train("name=x", *where, f"hydra.job.chdir={chdir}")
    assert status == 0, message
    assert {path.name for path in home.iterdir()} == {"mine", "data", run.partition("/")[0]}
    assert (home / "data" / sources.LAYOUT).is_dir()
    expected = {".lock", ".hydra", "checkpoints", "config.yaml", "history.csv", "metrics.json", "train.log"}
    assert {path.name for path in (home / run).iterdir()} == expected
    config = yaml.safe_load((home / run / "config.yaml").read_text())
    kept = [config["data"]["images"]["folder"], config["data"]["images"]["source"], config["output_dir"]]
    assert all(os.path.isabs(path) for path in kept)
    assert [os.path.realpath(path) for path in kept[:2]] == [str(home / "data"), str(home / "mine")]

    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    shutil.rmtree(home / "mine")
    assert RunDirectory(Path("..", run)).data_module().splits["test"][0].shape == (50, 28, 28)
    (home / run / "metrics.json").unlink()  # as if it had been stopped
    status, _, message = answer_in_process([f"resume={Path('..', run)}"])
    assert status == 0, message
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("place", "sweep", "chdir"),
    [
        ("output_dir=out", "out/sweeps/x", "true"),
        ("hydra.sweep.dir=s", "s", "true"),
        ("hydra.sweep.dir=s", "s", "false"),
    ],
)
def test_a_sweep_lies_where_the_command_line_says(home: Path, place: str, sweep: str, chdir: str) -> None:
    command = ("-m", "name=x", "data.images.source=mine", "seed=0,1", place, f"hydra.job.chdir={chdir}")
    for said in ("Run directory", "finished already"):  # the same command again finds its jobs
        status, printed, message = train(*command)
        assert status == 0, message
        assert printed.count(said) == 2
        assert "2 jobs" in printed
    assert {path.name for path in home.iterdir()} == {"mine", "data", sweep.partition("/")[0]}
    assert {path.name for path in (home / sweep).iterdir()} >= {"0", "1"}
    assert {path.name for path in (home / sweep / "1").iterdir()}.isdisjoint({"data", "out", "mine"})


def test_the_command_that_is_printed_goes_on_from_where_it_is_printed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(run_module, "train_and_test", stop)
    where = ("hydra.run.dir=a b", "hydra.job.chdir=true", "data.images.source=mine")
    status, _, message = train(*where)
    assert status == 130
    assert f"python {scripts.evaluate.__file__.replace('scripts/evaluate', 'train')} " in message
    assert f"'resume={home}/a b'" in message


@pytest.mark.parametrize("fault", FAULTS)
def test_a_command_with_a_source_that_is_refused_starts_no_run(
    fault: str, home: Path, files: dict[str, bytes]
) -> None:
    named = spoil(fault, home / "wrong", files)
    status, _, message = train("name=x", f"data.images.source={named}")
    assert status == 2
    assert message.startswith(f"error: data.images.source={named}: ")
    assert len(message.splitlines()) == 1
    assert not (home / "data").exists()
    assert not (home / "outputs" / "runs" / "x" / "config.yaml").exists()
    if fault == "mistyped":
        assert train("name=x", "data.images.source=mine")[0] == 0  # the name is free still


@pytest.mark.parametrize("layout", ["", str(sources.LAYOUT)])
def test_a_run_goes_on_with_images_in_any_layout(
    layout: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Interrupted(signal.SIGINT)

    (home / "own" / layout).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(home / "mine", home / "own" / layout, dirs_exist_ok=True)
    with monkeypatch.context() as stopped:
        stopped.setattr(run_module, "train_and_test", stop)
        assert train("name=x", "data.images.folder=own")[0] == 130
    status, _, message = answer_in_process(["resume=outputs/runs/x"])
    assert status == 0, message
    assert not (home / "data").exists()


def test_a_run_is_found_by_its_name(home: Path) -> None:
    (home / "outputs" / "runs" / "x").mkdir(parents=True)
    (home / "outputs" / "runs" / "x" / "config.yaml").write_text("")
    assert "Name the directory of a run: resume=outputs/runs/x" in answer_in_process(["resume=x"])[2]


@pytest.fixture
def finished(home: Path) -> Path:
    status, _, message = train("name=x", "data.images.source=mine")
    assert status == 0, message
    return home / "outputs" / "runs" / "x"


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_whose_images_are_gone_says_so_and_takes_others(
    reader: str, finished: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    (home / "data").rename(tmp_path / "other")
    before = contents(moved)
    answer = call(READERS[reader], moved)
    assert answer.returncode == 1
    for part in (str(home / "data"), "--data FOLDER", "python scripts/data.py"):
        assert part in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    for fault in ("", home / "nowhere", home, moved / "config.yaml"):
        answer = call(READERS[reader], moved, "--data", fault)
        assert answer.returncode == 2
        assert "--data" in answer.stderr
    assert contents(moved) == before
    assert not (home / "data").exists()
    monkeypatch.setattr("fmnist_lit.readers.page.plots", lambda _: {})  # drawing takes seconds
    monkeypatch.setattr(scripts.evaluate, "write_evaluation", lambda *_: None)
    answer = call(READERS[reader], moved, "--data", "~/mine")
    assert answer.returncode == 0, answer.stderr


def test_images_are_read_from_either_layout(finished: Path, home: Path) -> None:
    for folder in (home / "data", home / "data" / sources.LAYOUT, home / "mine"):
        assert len(RunDirectory(finished, folder).data_module().splits["val"][0]) == 20


def test_a_reader_notices_images_that_were_damaged(finished: Path, home: Path) -> None:
    (home / "data" / sources.LAYOUT / "t10k-labels-idx1-ubyte").write_bytes(b"x")
    answer = call(scripts.evaluate, finished)
    assert answer.returncode == 1
    assert "t10k-labels-idx1-ubyte has md5" in answer.stderr


@pytest.mark.parametrize("reader", READERS)
def test_drawn_images_are_in_no_folder(reader: str, run_copy: Path, tmp_path: Path) -> None:
    answer = call(READERS[reader], run_copy, "--data", tmp_path)
    assert answer.returncode == 2
    assert "drawn" in answer.stderr


def test_a_run_that_cannot_find_its_images_is_not_resumed_with_others(finished: Path, home: Path) -> None:
    (finished / "metrics.json").unlink()
    (home / "data").rename(home / "other")
    before = contents(home)
    status, _, message = answer_in_process([f"resume={finished}"])
    assert status == 2
    for part in (str(home / "data"), "python scripts/data.py", "data.images.folder="):
        assert part in message
    assert contents(home) == before
    assert call(scripts.data, home / "data", "--source", "other").returncode == 0
    assert answer_in_process([f"resume={finished}"])[0] == 0


@pytest.mark.parametrize("place", ["working folder", "checkout"])
def test_runs_of_earlier_versions_are_read_from_where_they_were_started(
    place: str, finished: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["data"]["images"] |= {"folder": "data", "source": "mine"}
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(sources, "CHECKOUT", home if place == "checkout" else tmp_path)
    monkeypatch.chdir(home if place == "working folder" else tmp_path)
    assert len(RunDirectory(finished).data_module().splits["test"][0]) == 50
    (finished / "metrics.json").unlink()
    assert answer_in_process([f"resume={finished}"])[0] == 0
    (home / "data").rename(home / "other")
    answer = call(scripts.evaluate, finished)
    assert answer.returncode == 1
    assert f"expected in {Path.cwd() / 'data'}" in answer.stderr


def test_a_place_tells_no_two_configs_apart(
    composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    configs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        configs.append(composed("data.images.source=mine"))
    assert [config["output_dir"] for config in configs] == [str(tmp_path / n / "outputs") for n in "ab"]
    assert decisive(configs[0]) == decisive(configs[1])
