"""Searches over configs: what a space may say, studies that go on, and the experiment that comes out."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir

import scripts.tune
from fmnist_lit.config import check, resolved
from fmnist_lit.errors import UsageError
from fmnist_lit.search import compose_config, experiment
from fmnist_lit.search_space import CONF, read_search
from tests.conftest import SMALL, call

SPACE = """
overrides: [model=mlp, "model.hidden=[16]", optim=adam]
start: {optim.lr: 1.0e-08}
space:
  optim.lr: {low: 1.0e-08, high: 0.1, log: true}
  optim: {choices: [adam, sgd]}
  label_smoothing: {low: 0.0, high: 0.2, step: 0.1}
  augment.shift: {low: 0, high: 2}
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


def test_a_database_that_cannot_be_opened_says_why(space: Path, tmp_path: Path) -> None:
    answer = call(scripts.tune, space, "--output-dir", tmp_path, "--storage", "nonsense")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: nonsense: ")
    assert len(answer.stderr.splitlines()) == 1


def test_a_missing_file_is_answered_with_those_there_are(tmp_path: Path) -> None:
    answer = call(scripts.tune, "conf/search/learning.yaml", "--output-dir", tmp_path)
    assert answer.returncode == 2
    assert "Did you mean conf/search/learning_rate.yaml?" in answer.stderr
