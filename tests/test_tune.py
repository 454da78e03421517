"""Searches over configs: what a space may say, studies that go on, and the experiment that comes out."""

import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
from fmnist_lit.search import Search, compose_config, experiment, optimize, read_search
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


def study_in(folder: Path) -> optuna.Study:
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    return optuna.load_study(study_name="space", storage=optuna.storages.JournalStorage(journal))


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def test_a_study_beats_its_start_goes_on_and_ends_as_an_experiment(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    sampler = partial(optuna.samplers.TPESampler, seed=1)  # by chance all rates may be too low
    monkeypatch.setattr(optuna.samplers, "TPESampler", sampler)
    command = (space, *SMALL, "--output-dir", tmp_path)
    first = call(scripts.tune, *command, "--trials", "3")
    assert first.returncode == 0, first.stderr
    second = call(scripts.tune, *command, "--trials", "7")
    assert second.returncode == 0, second.stderr

    study = study_in(tmp_path / "tune" / "space")
    assert len(study.trials) == 7
    assert study.trials[0].params["optim.lr"] == 1e-8
    assert study.best_value > (study.trials[0].value or 0)
    assert {path.name for path in (tmp_path / "tune" / "space").iterdir() if path.is_dir()} == set("0123456")
    assert "experiment=tuned/space" in second.stdout

    written = (tmp_path / "tuned" / "space.yaml").read_text()
    assert f"val accuracy {study.best_value:.4f}" in written
    values = [f"{key}={value}" for key, value in study.best_params.items()]
    of_trials = ("trainer=cpu", "trainer.max_epochs=2", "threads=1", "logger=none")
    overrides = [one for one in read_search(space, SMALL).overrides if one not in of_trials]
    config, _, _ = compose_config([*overrides, *values])
    assert composed_from(written, tmp_path) == config
    assert config["trainer"]["max_epochs"] == 20
    assert "tensorboard" in config["logger"]


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
    "[space]": "no space",
    "{overrides: null, start: null, space: null}": "no space",
    "colour: 1": "colour: no such key. Choices: overrides, space, start",
    "space: {optim.lr: 3}": "optim.lr: {low, high}",
    "space: {optim.lr: {low: 2, high: 1}}": "`low <= high`",
    "space: {optim.lr: {low: 0, high: 1, log: true}}": "optim.lr: {low, high}",
    "space: {optim.lr: {low: 0, high: 1, lag: true}}": "'lag'",
    "space: {optim.lr: {choices: []}}": "choices",
    "space: {optim.lr: {low: abc, high: 1}}": "numbers",
    "{start: 3, space: {optim.lr: {low: 0, high: 1}}}": "start=3: it must be",
    "space: {": "no YAML",
    "{overrides: [~schedule.warmup], space: {optim.lr: {low: 0, high: 1}}}": "~schedule.warmup",
    "{overrides: [experiment=five_models/cnn_c], space: {optim.lr: {low: 0, high: 1}}}": "experiment",
    "{overrides: [name=x], space: {optim.lr: {low: 0, high: 1}}}": "--study",
    "{overrides: [hydra.verbose=true], space: {optim.lr: {low: 0, high: 1}}}": "--study",
    "{overrides: ['optim.betas=[1'], space: {optim.lr: {low: 0, high: 1}}}": "'optim.betas=[1]'",
    "{overrides: ['seed=1,2'], space: {optim.lr: {low: 0, high: 1}}}": "several values",
    "{overrides: logger=null, space: {optim.lr: {low: 0, high: 1}}}": "a list: [logger=null]",
    "{overrides: [init_from=007, logger=null], space: {optim.lr: {low: 0, high: 1}}}": "say logger=none",
    "{start: {optim.lrr: 1}, space: {optim.lr: {low: 0, high: 1}}}": "Did you mean optim.lr?",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_space_that_cannot_be_searched_says_why(text: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(text)
    answer = call(scripts.tune, tmp_path / "space.yaml", "--output-dir", tmp_path)
    assert answer.returncode == 2
    assert FAULTS[text] in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


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
    return [trial.state.name for trial in study_in(folder / "tune" / "space").trials]


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


def test_workers_that_start_at_once_share_one_study(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, 0.5)
    # Hydra composes in one thread of a process only.
    monkeypatch.setattr(fmnist_lit.search, "compose_config", lambda overrides: ({}, {}, ""))
    search = read_search(space, SMALL)

    def work(_: int) -> None:
        optimize(search, tmp_path, "space", 6, tmp_path / "out" / "found.yaml")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    study = study_in(tmp_path)
    assert 6 <= len(study.trials) <= 9  # four may look at once whether there is one left to do
    rates = [trial.params["optim.lr"] for trial in study.trials]
    assert rates.count(1e-8) == 1
    assert len(set(rates)) == len(rates), "workers draw the same"


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


@pytest.mark.parametrize("folder", ["a?b=c#d", "%41%3f 100%", "file:a&b;{c} ä'd", ":memory:", "a\\b\nc"])
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
    assert {path.name for path in study.iterdir()} == {"study.json", "study.log", "study.lock", "0", "1"}
    assert {path.name for path in tmp_path.iterdir()} == {folder, "tuned", "space.yaml"}


@pytest.fixture
def command(space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """A study of stubbed trials, begun."""
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    stub(monkeypatch, 0.5)
    command = (space, *SMALL, "--output-dir", tmp_path)
    answer = call(scripts.tune, *command, "--trials", "1")
    assert answer.returncode == 0, answer.stderr
    return command


# What is edited in the space, or said on the command line, and the difference that is told.
OTHERS = {
    ("high: 0.1", "high: 0.2"): "space.optim.lr.high was 0.1, is 0.2",
    (", log: true", ""): "space.optim.lr.log was True, is None",
    ("[adam, sgd]", "[adam, nesterov]"): "space.optim.choices was ['adam', 'sgd'], is ['adam', 'nesterov']",
    (
        "  label_smoothing: {low: 0.0, high: 0.2, step: 0.1}\n",
        "",
    ): "space.label_smoothing.low was 0.0, is None",
    ("lr: 1.0e-08}", "lr: 2.0e-08}"): "start.optim.lr was 1e-08, is 2e-08",
    ("hidden=[16]", "hidden=[8]"): "override 2 was model.hidden=[16], is model.hidden=[8]",
    "trainer.precision=64-true": "was None, is trainer.precision=64-true",
}


def test_a_study_that_was_begun_with_something_else_is_refused_with_the_difference(
    command: tuple[object, ...], space: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    for change, difference in OTHERS.items():
        space.write_text(SPACE if isinstance(change, str) else SPACE.replace(*change))
        further = [change] if isinstance(change, str) else []
        answer = call(scripts.tune, *command, "--trials", "2", *further)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert difference in answer.stderr
        assert answer.stderr.startswith("error: the study space was begun with another command: ")
        assert len(answer.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert states(tmp_path) == ["COMPLETE"]


def test_where_and_how_fast_trials_run_may_change(command: tuple[object, ...], tmp_path: Path) -> None:
    answer = call(scripts.tune, *command, "--trials", "2", "threads=2", "data.eval_batch_size=7")
    assert answer.returncode == 0, answer.stderr
    assert states(tmp_path) == ["COMPLETE"] * 2


def test_a_change_of_the_defaults_is_a_difference(
    command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = fmnist_lit.search.compose_config

    def other_defaults(overrides: list[str]) -> Any:
        config, groups, said = compose(overrides)
        return config | {"label_smoothing": 0.3}, groups, said

    monkeypatch.setattr(fmnist_lit.search, "compose_config", other_defaults)
    answer = call(scripts.tune, *command)
    assert "label_smoothing was 0.0, is 0.3" in answer.stderr


def test_what_the_end_needs_is_there_before_the_first_trial(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", tmp_path / "tuned" / "space.yaml"
    monkeypatch.setattr(scripts.tune, "EXPERIMENTS", tmp_path)
    command = (space, *SMALL, "--output-dir", out, "--trials", "1")
    monkeypatch.setattr(fmnist_lit.search, "run", None)  # a trial would fail

    written.parent.write_text("a file in the place of the folder")
    assert call(scripts.tune, *command)[::2] == (1, f"error: {written.parent}: File exists\n")
    written.parent.unlink()

    written.parent.mkdir()
    for make in (written.touch, written.mkdir, lambda: written.symlink_to(space)):
        make()
        answer = call(scripts.tune, *command)
        assert answer.returncode == 2
        assert f"{written} is not what this study wrote" in answer.stderr
        written.rmdir() if written.is_dir() else written.unlink()

    (out / "tune" / "space" / "0").mkdir()
    answer = call(scripts.tune, *command)
    assert answer.returncode == 2
    assert f"{out / 'tune' / 'space' / '0'} is there, and no trial of this study" in answer.stderr
    (out / "tune" / "space" / "0").rmdir()

    stub(monkeypatch, 0.5)
    assert call(scripts.tune, *command).returncode == 0
    assert call(scripts.tune, *command).returncode == 0, "what it wrote itself is written again"
    written.write_text(written.read_text() + "seed: 3\n")
    answer = call(scripts.tune, *command)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert f"{written} is not what this study wrote" in answer.stderr


def test_an_experiment_has_nothing_that_only_made_its_trials_short(tmp_path: Path) -> None:
    short = [
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=2",
        "logger=[csv,tensorboard]",
    ]
    quiet = [
        "debug=fast",
        "threads=1",
        "data.train_subset=20",
        "callbacks.progress=null",
        "logger.csv.name=x",
    ]
    kept = [
        "trainer.precision=bf16-mixed",
        "data.images.folder=x",
        "init_from='2024_05'",
        "callbacks=early_stopping",
    ]
    space: dict[str, Any] = {"trainer.max_epochs": {}, "optim.lr": {}}
    search = Search(overrides=[*short, *quiet, *kept], space=space)
    assert experiment(search, {"optim.lr": 1e-3}, "Found.").splitlines() == [
        "# @package _global_",
        "# Found.",
        "defaults:",
        "  - override /callbacks: early_stopping",
        "  - _self_",
        "",
        "trainer:",
        "  precision: bf16-mixed",
        "data:",
        "  images:",
        "    folder: x",
        "init_from: '2024_05'",
        "optim:",
        "  lr: 0.001",
    ]
    assert "max_epochs: 3" in experiment(search, {"trainer.max_epochs": 3}, "Found.")
