"""scripts/evaluate.py: figures of finished runs from their directories alone."""

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.report.evaluation import Evaluation, metrics
from scripts.evaluate import main
from tests.conftest import ROOT


class Answer(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def evaluate(*arguments: object) -> Answer:
    """Run the script's main in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        return Answer(main(), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def runs(trained: Any) -> dict[str, Path]:
    return {name: trained(f"model={name}", "trainer.max_epochs=3")[0] for name in ("mlp4", "cnn_b")}


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a run, moved to another folder."""
    return Path(
        shutil.copytree(runs["mlp4"], tmp_path / "moved" / "run", ignore=shutil.ignore_patterns("evaluation"))
    )


def test_two_runs_with_one_command_give_the_figures_of_training(runs: dict[str, Path]) -> None:
    answer = evaluate(*runs.values())
    assert answer.returncode == 0, answer.stderr
    for name, text in (("mlp4", "multi-layer-net.txt"), ("cnn_b", "convolution-neural-net.txt")):
        folder = runs[name] / "evaluation" / "test"
        expected = json.loads((runs[name] / "metrics.json").read_text())["test"]
        figures = json.loads((folder / "metrics.json").read_text())
        assert figures["accuracy"] == expected["accuracy"]
        assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        with (folder / "predictions.csv").open() as file:
            rows = list(csv.DictReader(file))
        labels = drawn_garments(train=200, test=100, seed=0).test_labels.tolist()
        assert [int(row["true"]) for row in rows] == labels
        assert accuracy_score(labels, [int(row["predicted"]) for row in rows]) == expected["accuracy"]
        assert sum(float(rows[0][key]) for key in list(rows[0])[3:]) == pytest.approx(1, abs=1e-4)
        assert f"accuracy {expected['accuracy']:.4f}" in answer.stdout
        assert (folder / text).read_text().startswith("loss ")
        drawn = {path.name for path in folder.glob("*.png")}
        assert drawn >= {"confusion_matrix.png", "class_accuracy.png", "samples.png", "reliability.png"}
        assert "Ankle boot" in (folder / "classification_report.txt").read_text()
    assert [path.name for path in (runs["mlp4"] / "evaluation").iterdir()] == ["test"]


def test_a_moved_run_evaluates_the_same_twice(run: Path, runs: dict[str, Path]) -> None:
    results = []
    for directory in (runs["mlp4"], run, run):
        assert evaluate(directory, "--split", "val", "--folds", 2).returncode == 0
        results.append((directory / "evaluation" / "val" / "predictions.csv").read_bytes())
    assert results[0] == results[1] == results[2]


def test_more_folds_than_images_of_a_class_are_refused(run: Path) -> None:
    answer = evaluate(run, "--split", "val")
    assert answer.returncode == 2
    assert "Choose 4 or fewer" in answer.stderr
    assert not (run / "evaluation").exists()


def test_a_run_with_a_limit_is_evaluated_on_the_images_it_was_trained_on(trained: Any) -> None:
    directory, figures = trained("model=mlp4", "data.limit=30")
    assert evaluate(directory, "--split", "train", "--folds", 2).returncode == 0
    again = json.loads((directory / "evaluation" / "train" / "metrics.json").read_text())
    assert (again["images"], again["accuracy"]) == (30, figures["train"]["accuracy"])


def break_checkpoint(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch EXECUTED",))


FAULTS = {
    "no run": (lambda run: (run / "config.yaml").unlink(), "no run directory"),
    "config of another kind": (lambda run: (run / "config.yaml").write_text("a: 1"), "no config of a run"),
    "broken config": (lambda run: (run / "config.yaml").write_text("a: [1"), "config.yaml"),
    "no checkpoints": (lambda run: shutil.rmtree(run / "checkpoints"), "best.ckpt"),
    "truncated checkpoint": (lambda run: break_checkpoint(run / "checkpoints" / "best.ckpt"), "best.ckpt"),
    "empty checkpoint": (lambda run: (run / "checkpoints" / "best.ckpt").write_bytes(b""), "best.ckpt"),
    "malicious checkpoint": (
        lambda run: torch.save({"state_dict": Malicious()}, run / "checkpoints" / "best.ckpt"),
        "holds more than weights",
    ),
    "malicious bare pickle": (
        lambda run: (run / "checkpoints" / "best.ckpt").write_bytes(pickle.dumps(Malicious())),
        "best.ckpt",
    ),
    "forbidden target": (
        lambda run: (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("fmnist_lit.models.mlp.MLP", "os.system")
        ),
        "os.system",
    ),
    "another model": (
        lambda run: (run / "config.yaml").write_text(
            (run / "config.yaml").read_text().replace("- 500", "- 501")
        ),
        "does not fit",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_evaluated_gets_one_message_and_leaves_nothing(fault: str, run: Path) -> None:
    damage, part = FAULTS[fault]
    damage(run)
    answer = evaluate(run)
    assert answer.returncode in (1, 2)
    assert part in answer.stderr
    assert answer.stderr.startswith("error: ")
    assert len(answer.stderr.splitlines()) == 1
    assert not (run / "evaluation").exists()
    assert not (ROOT / "EXECUTED").exists()


def test_the_script_runs_by_itself(run: Path) -> None:
    command = [sys.executable, "scripts/evaluate.py", str(run), str(run / "checkpoints")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert "95% interval" in answer.stdout
    assert answer.stderr == f"error: {run / 'checkpoints'} is no run directory: it has no config.yaml.\n"


def test_figures_by_hand() -> None:
    """Ten images of class 0 and ten of class 1; of the latter two are taken for class 0."""
    true = np.repeat([0, 1], 10)
    probabilities = np.zeros((20, 10))
    probabilities[:10, :2] = [0.9, 0.1]
    probabilities[10:, :2] = [0.3, 0.7]
    probabilities[10:12, :2] = [0.6, 0.4]
    images = np.zeros((20, 28, 28), dtype=np.uint8)
    figures = metrics(Evaluation(images, true, probabilities, loss=0.5), folds=2)
    assert figures["accuracy"] == 0.9
    assert figures["top_2_accuracy"] == 1
    assert figures["classes"]["T-shirt"]["precision"] == pytest.approx(10 / 12)
    assert figures["classes"]["Trouser"]["recall"] == pytest.approx(0.8)
    assert figures["expected_calibration_error"] == pytest.approx(
        (10 * 0.1 + 8 * 0.3 + 2 * 0.6) / 20, abs=1e-6
    )
    assert figures["folds"]["mean"] == pytest.approx(0.9)
    low, high = figures["accuracy_95_interval"]
    assert (round(low, 4), round(high, 4)) == (0.699, 0.9721)  # Wilson 1927, of 18 in 20
