"""Searches over configs: what a space may say, studies that go on, and the experiment that comes out."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir

import fmnist_lit.search
import scripts.tune
from fmnist_lit.check import check
from fmnist_lit.config import CONF, resolved
from fmnist_lit.errors import Diverged, UsageError, UserError
from fmnist_lit.interrupt import Interrupted
from fmnist_lit.search import compose_config, experiment, optimize
from fmnist_lit.search_space import read_search
from tests.fixtures import SMALL, call

SPACE = """
overrides: [model=mlp, "model.hidden=[16]", optim=adam]
start: {optim.lr: 1.0e-08}
space:
  optim.lr: {low: 1.0e-08, high: 0.1, log: true}
  optim: {choices: [adam, sgd]}
  label_smoothing: {low: 0.0, high: 0.2, step: 0.1}
  augment.affine.shift: {low: 0, high: 2}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def test_a_study_beats_its_start_goes_on_and_ends_as_an_experiment(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    command = (space, *SMALL, "--output-dir", tmp_path, "--seed", "1")
    first = call(scripts.tune, *command, "--trials", "3")
    assert first.returncode == 0, first.stderr
    second = call(scripts.tune, *command, "--trials", "7")
    assert second.returncode == 0, second.stderr

    study = optuna.load_study(study_name="space", storage=f"sqlite:///{tmp_path}/tune/space/study.db")
    assert len(study.trials) == 7
    assert study.trials[0].params["optim.lr"] == 1e-8
    assert study.best_value > (study.trials[0].value or 0)
    assert {path.name for path in (tmp_path / "tune" / "space").iterdir() if path.is_dir()} == set("0123456")
    assert "experiment=tuned/space" in second.stdout

    written = (tmp_path / "tuned" / "space.yaml").read_text()
    assert f"val accuracy {study.best_value:.4f}" in written
    values = [f"{key}={value}" for key, value in study.best_params.items()]
    config, _, _ = compose_config([*read_search(space, SMALL).overrides, *values])
    assert composed_from(written, tmp_path) | {"threads": 1} == {
        k: v for k, v in config.items() if k != "experiment"
    }


def composed_from(experiment_file: str, folder: Path) -> dict[str, Any]:
    """Compose an experiment that lies outside conf/."""
    (folder / "path" / "experiment").mkdir(parents=True)
    (folder / "path" / "experiment" / "found.yaml").write_text(experiment_file)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["experiment=found", f"hydra.searchpath=[file://{folder / 'path'}]"]
        config = resolved(compose("config", overrides))
    check(config)
    return config


def test_an_experiment_names_groups_before_keys(space: Path) -> None:
    text = experiment(read_search(space), {"optim": "sgd", "optim.lr": 0.1}, "Found.")
    assert text.splitlines()[1:5] == [
        "# Found.",
        "defaults:",
        "  - override /model: mlp",
        "  - override /optim: sgd",
    ]
    assert "optim:\n  lr: 0.1" in text


FAULTS = {
    "space: {}": "no space",
    "colour: 1": "overrides, start and space",
    "space: {optim.lr: 3}": "optim.lr: {low, high}",
    "space: {optim.lr: {low: 2, high: 1}}": "low is to be below high",
    "space: {optim.lr: {low: 0, high: 1, log: true}}": "with log above 0",
    "space: {optim.lr: {choices: []}}": "choices",
    "space: {optim.lr: {low: abc, high: 1}}": "numbers",
    "{start: 3, space: {optim.lr: {low: 0, high: 1}}}": "start and space are keys",
    "space: {": "no YAML",
    "{overrides: [~schedule.warmup], space: {optim.lr: {low: 0, high: 1}}}": "~schedule.warmup",
    "{overrides: [experiment=five_models/cnn_c], space: {optim.lr: {low: 0, high: 1}}}": "experiment",
    "{start: {optim.lrr: 1}, space: {optim.lr: {low: 0, high: 1}}}": "Did you mean optim.lr?",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_space_that_cannot_be_searched_says_why(text: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    answer = call(scripts.tune, tmp_path / "space.yaml", "--output-dir", tmp_path)
    assert answer.returncode == 2
    assert FAULTS[text] in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("model=cnn_d", "Did you mean cnn_"),
        ("optim.lrr=1", "Did you mean lr?"),
        ("data.val_fraction=0", "validation"),
        ("trainer=ddp", "one device"),
    ],
)
def test_a_trial_that_cannot_be_composed_says_why(override: str, part: str) -> None:
    with pytest.raises(UsageError) as wrong:
        compose_config([override])
    assert part in str(wrong.value)


def test_spaces_of_the_project_are_sound() -> None:
    for path in (CONF / "search").glob("*.yaml"):
        search = read_search(path)
        for key, kind in search.space.items():
            for value in kind.get("choices") or (kind["low"], kind["high"]):
                compose_config([*search.overrides, f"{key}={value}"])


def stub(monkeypatch: pytest.MonkeyPatch, *outcomes: float | BaseException) -> None:
    """Let trials end so instead of training, the last outcome for all that follow."""
    left = list(outcomes)

    def run(*arguments: Any, **further: Any) -> dict[str, Any]:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return {"val": {"accuracy": outcome}}

    monkeypatch.setattr(fmnist_lit.search, "run", run)


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="space", storage=f"sqlite:///{folder}/tune/space/study.db")
    return [trial.state.name for trial in study.trials]


def test_a_trial_that_diverges_is_hopeless_and_one_that_fails_ends_the_search(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    command = (space, *SMALL, "--output-dir", tmp_path, "--trials", "3")
    stub(monkeypatch, 0.5, Diverged("training diverged"), UserError("the disk is full"))
    answer = call(scripts.tune, *command)
    assert (answer.returncode, answer.stderr) == (1, "error: the disk is full\n")
    assert states(tmp_path) == ["COMPLETE", "PRUNED", "FAIL"]

    stub(monkeypatch, Interrupted(signal.SIGTERM))
    assert call(scripts.tune, *command).returncode == 143
    stub(monkeypatch, 0.6)
    assert call(scripts.tune, *command).returncode == 0
    assert states(tmp_path) == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "COMPLETE"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_workers_that_start_at_once_share_one_study(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, 0.5)
    # Hydra composes in one thread of a process only.
    monkeypatch.setattr(fmnist_lit.search, "compose_config", lambda overrides: ({}, {}, ""))
    search = read_search(space, SMALL)
    storage = f"sqlite:///{tmp_path}/study.db"
    (tmp_path / "tune").mkdir()

    def work(seed: int) -> None:
        optimize(search, tmp_path / "tune", "space", storage, 6, seed)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    study = optuna.load_study(study_name="space", storage=storage)
    assert 6 <= len(study.trials) <= 9  # four may look at once whether there is one left to do
    assert [trial.params["optim.lr"] for trial in study.trials].count(1e-8) == 1


def test_a_database_that_cannot_be_opened_says_why(space: Path, tmp_path: Path) -> None:
    answer = call(scripts.tune, space, "--output-dir", tmp_path, "--storage", "nonsense")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: nonsense: ")
    assert len(answer.stderr.splitlines()) == 1


def test_a_missing_file_is_answered_with_those_there_are(tmp_path: Path) -> None:
    answer = call(scripts.tune, "conf/search/learning.yaml", "--output-dir", tmp_path)
    assert answer.returncode == 2
    assert "Did you mean conf/search/learning_rate.yaml?" in answer.stderr


@pytest.mark.parametrize(
    "name",
    [
        "../esc",
        "my/s",
        "/nowhere/esc",
        "",
        ".",
        "..",
        "-a",
        "a\nb",
        "a b",
        "a,b",
        "a=b",
        "\x1b[2J",
        "a" * 201,
    ],
)
def test_a_study_that_has_no_name_of_a_folder_is_refused(
    name: str, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path / "out")
    stub(monkeypatch, 0.5)  # should it be accepted
    before = sorted(tmp_path.rglob("*"))
    answer = call(scripts.tune, space, "--output-dir", tmp_path / "out" / "put", f"--study={name}")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"error: --study {name!r}: it must be letters, digits")
    assert len(answer.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_space_whose_file_gives_no_name_needs_one(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    stub(monkeypatch, 0.5)
    command = (space.rename(tmp_path / "my space.yaml"), *SMALL, "--output-dir", tmp_path, "--trials", "1")
    assert "--study 'my space'" in call(scripts.tune, *command).stderr
    assert call(scripts.tune, *command, "--study", "mine").returncode == 0


@pytest.mark.parametrize("folder", ["a?b=c#d", "%41%3f 100%", "file:a&b;{c} ä'd"])
def test_a_study_lies_in_its_folder_whatever_that_is_called(
    folder: str, space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    stub(monkeypatch, 0.5)
    for trials in "12":
        answer = call(scripts.tune, space, *SMALL, "--output-dir", folder, "--trials", trials)
        assert answer.returncode == 0, answer.stderr
    study = tmp_path / folder / "tune" / "space"
    assert {path.name for path in study.iterdir()} == {"study.db", "study.lock", "0", "1"}
    assert {path.name for path in tmp_path.iterdir()} == {folder, "tuned", "space.yaml"}
