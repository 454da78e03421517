"""scripts/evaluate.py: figures of finished runs from their directories alone."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

import scripts.evaluate
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.readers.evaluate import Evaluation, metrics
from tests.fixtures import ROOT, Answer, Forked, call


def evaluate(*arguments: object) -> Answer:
    return call(scripts.evaluate, *arguments)


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
    assert not list((runs["mlp4"] / "evaluation").glob(".*")), "nothing half-written"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations draw no plots, which takes seconds."""
    monkeypatch.setattr("fmnist_lit.readers.evaluate.plots", lambda evaluation: {})


@pytest.mark.usefixtures("undrawn")
def test_a_moved_run_evaluates_the_same_twice(run_copy: Path, runs: dict[str, Path]) -> None:
    results = []
    for directory in (runs["mlp4"], run_copy, run_copy):
        assert evaluate(directory, "--split", "val", "--folds", 2).returncode == 0
        results.append((directory / "evaluation" / "val" / "predictions.csv").read_bytes())
    assert results[0] == results[1] == results[2]


def test_more_folds_than_images_of_a_class_are_refused(run_copy: Path) -> None:
    answer = evaluate(run_copy, "--split", "val")
    assert answer.returncode == 2
    assert "Choose 4 or fewer" in answer.stderr
    assert not (run_copy / "evaluation").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_with_a_limit_is_evaluated_on_the_images_it_was_trained_on(trained: Any) -> None:
    directory, figures = trained("model=mlp4", "data.train_subset=30")
    assert evaluate(directory, "--split", "train", "--folds", 2).returncode == 0
    again = json.loads((directory / "evaluation" / "train" / "metrics.json").read_text())
    assert (again["images"], again["accuracy"]) == (30, figures["train"]["accuracy"])


def test_the_script_runs_by_itself(run_copy: Path) -> None:
    command = [sys.executable, "scripts/evaluate.py", str(run_copy), str(run_copy / "checkpoints")]
    process = Forked(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    printed, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "95% interval" in printed
    assert message == f"error: {run_copy / 'checkpoints'} is no run directory: it has no config.yaml.\n"


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


def test_two_classes_can_be_evaluated() -> None:
    true = np.array([0, 1, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    images = np.zeros((4, 28, 28), dtype=np.uint8)
    found = metrics(Evaluation(images, true, probabilities, 0.5, ("left", "right")), folds=2)
    assert (found["accuracy"], found["top_2_accuracy"]) == (0.75, 1.0)
    assert found["classes"]["left"]["recall"] == 0.5
