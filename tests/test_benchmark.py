"""benchmarks/: the same work for all, measured in turn. Speeds themselves are not tested."""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import benchmarks.speed
from benchmarks import baselines
from benchmarks.baselines import Work
from fmnist_lit.errors import UserError
from tests.fixtures import ROOT, SMALL, Forked, call

WORK = Work(model="cnn_c", batch_size=32, images=100, threads=1)


@pytest.mark.parametrize("name", ["fmnist_lit", "bare", "evaluation"])
def test_each_answers_for_an_epoch(
    name: str,
    composed: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = (*SMALL, "model=cnn_c", "data.train_subset=100", "data.val_fraction=0", "trainer.max_epochs=9")
    monkeypatch.setattr(Work, "config", lambda self: composed(*small))
    asked = iter(["measure", "measure", "stop"])
    monkeypatch.setattr("builtins.input", lambda: next(asked))
    with pytest.raises(SystemExit):
        baselines.serve(name, WORK)
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready == "ready"
    assert len(answers) == 2
    assert all(float(number) > 0 for answer in answers for number in answer.split())


def test_the_work_is_what_its_fields_say() -> None:
    config = WORK.config()
    assert config["data"]["batch_size"] == 32
    assert (config["data"]["train_subset"], config["data"]["val_fraction"]) == (100, 0)
    assert config["model"]["_target_"].endswith("CNNC")
    assert config["steps_per_execution"] == "auto"
    assert config["logger"]["tensorboard"], "the usual logging"


def test_one_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)
    work = {"model": "mlp4", "batch_size": 32, "images": 7, "threads": 1}
    with ExitStack() as context, pytest.raises(UserError, match=r"bare failed: .*data\.train_subset=7"):
        benchmarks.speed.Baseline(context, "bare", work, ROOT).answer()


def test_ratios_are_of_the_same_round_and_of_the_better_loader() -> None:
    found = benchmarks.speed.compared(
        {
            "fmnist_lit": [10.0, 20.0, 40.0],  # the machine gets faster
            "against": [5.0, 20.0, 10.0],
            "reports_0": [1.0, 1.0, 1.0],
            "reports_2": [2.0, 5.0, 4.0],
        }
    )
    assert found["ratios"] == {"against": 2.0, "reports": 5.0}
    assert found["images_per_second"]["fmnist_lit"] == 20.0


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("--models=mlp5", "mlp4"),
        ("--batch-sizes=many", "many"),
        ("--rounds=0", "1 or more"),
        ("--images=7", "multiple of 10"),
        ("--against=/nowhere", "no benchmarks/baselines.py"),
    ],
)
def test_wrong_options_get_one_message(option: str, part: str, tmp_path: Path) -> None:
    answer = call(benchmarks.speed, option, "--output", tmp_path / "speed.json")
    assert answer.returncode == 2
    assert part in answer.stderr
    assert not list(tmp_path.iterdir())
