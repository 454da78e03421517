"""scripts/export.py: an ONNX file that answers as the checkpoint does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import scripts.export
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.report.evaluation import evaluate
from fmnist_lit.report.run_directory import RunDirectory
from tests.conftest import call


@pytest.mark.parametrize("model", ["mlp4", "cnn_b"])
def test_the_file_answers_as_the_checkpoint_for_any_batch(model: str, runs: dict[str, Path]) -> None:
    answer = call(scripts.export, runs[model])
    assert answer.returncode == 0, answer.stderr
    assert "on all 100 test images" in answer.stdout
    folder = runs[model] / "export"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "README.md"}
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = drawn_garments(train=200, test=100, seed=0).test.numpy()
    expected = evaluate(RunDirectory(runs[model]), "test", "best").probabilities
    for batch in (1, 7, 100):
        (given,) = session.run(["probabilities"], {"images": images[:batch]})
        np.testing.assert_allclose(given, expected[:batch], atol=1e-5)


def test_the_card_names_figures_layers_and_limits(runs: dict[str, Path]) -> None:
    call(scripts.export, runs["cnn_b"])
    card = (runs["cnn_b"] / "export" / "README.md").read_text()
    for part in ("583,830", "| Conv2d | 32, 28, 26 | 320 |", "95% interval", "Weakest class", "Intended use"):
        assert part in card


def test_a_file_that_answers_otherwise_is_not_kept(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_other(predictor: Any, path: Path) -> None:
        with torch.no_grad():
            for weight in predictor.parameters():
                weight.neg_()
        write(predictor, path)
        with torch.no_grad():
            for weight in predictor.parameters():
                weight.neg_()

    write = scripts.export.write_onnx
    monkeypatch.setattr(scripts.export, "write_onnx", write_other)
    answer = call(scripts.export, run_copy)
    assert answer.returncode == 1
    assert "gives another class" in answer.stderr
    assert not list(run_copy.glob("*export*"))
