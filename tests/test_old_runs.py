"""Runs of earlier versions: data/old_run was made by commit cfc9048, with that version's keys and metrics."""

import json
import shutil
from pathlib import Path

import pytest

import scripts.curves
import scripts.evaluate
import scripts.export
import scripts.report
import scripts.results
from fmnist_lit.errors import UserError
from fmnist_lit.readers.old_configs import modern, modern_config
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run_files import read_metrics
from tests.fixtures import ROOT, call

OLD = ROOT / "tests" / "data" / "old_run"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old_run"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_old_run_gives_the_metrics_that_it_had(
    split: str, old_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if split != "test":  # the plots of one split are enough
        monkeypatch.setattr("fmnist_lit.readers.evaluate.plots", lambda evaluation: {})
    answer = call(scripts.evaluate, old_run, "--split", split, "--folds", 2)
    assert answer.returncode == 0, answer.stderr
    measured = json.loads((old_run / "evaluation" / split / "metrics.json").read_text())
    recorded = json.loads((OLD / "metrics.json").read_text())[split]
    assert measured["accuracy"] == recorded["accuracy"]
    assert measured["loss"] == pytest.approx(recorded["loss"], rel=1e-6)


def test_every_reader_opens_an_old_run(old_run: Path) -> None:
    for script, *further in (
        (scripts.curves,),
        (scripts.export,),
        (scripts.report, "-o", old_run.parent / "report.html"),
        (scripts.results, "--format", "json"),
    ):
        answer = call(script, old_run, *further)
        assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["finished"][0]["test_accuracy"] == 0.45
    assert read_metrics(old_run)["test_flipped"] == {"accuracy": 0.465, "loss": 1.915602731704712}


def test_old_keys_have_todays_names() -> None:
    config = RunDirectory(OLD).config
    assert config["ema_decay"] == 0.9
    assert config["data"]["train_subset"] == 200
    assert config["augment"]["affine"]["flip"] == 0.5
    assert config["callbacks"]["early_stopping"]["patience"] == 5
    assert config["patch"]["_target_"] == "fmnist_lit.models.patching.NoPatching"


def test_a_config_of_today_stays_as_it_is() -> None:
    today = modern_config(RunDirectory(OLD).config)
    assert modern_config(today) == today
    assert modern({"augment.mixup.alpha": 0.2})["augment.mixup.alpha"] == 0.2
    assert "augment.affine.shift" not in modern({"augment.mixup.alpha": 0.2})


def test_a_key_inside_a_value_gets_one_message() -> None:
    with pytest.raises(UserError, match="is a value already"):
        modern_config({"data": {"limit": 10}, "model": 3, "model.hidden": [1]})
