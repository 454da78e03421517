"""scripts/export.py: an ONNX file that answers as the checkpoint does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import scripts.export
from fmnist_lit.build import build
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.models import vgg
from fmnist_lit.models.speedups import prepare
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.export import INPUT, write_onnx
from fmnist_lit.readers.predict import Predictor
from fmnist_lit.readers.run_directory import RunDirectory
from tests.fixtures import ROOT, SMALL, call

BATCHES = (1, 2, 7, 40)  # 40: more than a network's first layers are given at a time
# Narrow where that changes no kind of layer.
NARROW = {
    "block_cnn": "model=block_cnn model.filters=8",
    "residual": "model=residual model.stem=4 model.widths=[8,12,16]",
    "separable": "model=separable model.widths=[4,8] model.blocks=[1,1] model.squeeze=4",
    "wide_resnet": "model=wide_resnet model.depth=10 model.widen_factor=1",
}
MODELS = sorted(
    NARROW.get(path.stem, f"model={path.stem}") for path in (ROOT / "conf" / "model").glob("*.yaml")
)
PATCHED = [f"model=mlp patch={mode} patch.size=" for mode in ("concat", "shared", "embed")]
VARIANTS = [
    *(f"{patched}{size}" for patched in PATCHED for size in (2, 4, 7, 14)),
    *(f"{model} model.head=logits" for model in ("model=cnn_b", "model=lenet")),
    *(
        f"{model} model.activation={activation}"
        for model in ("model=mlp", *NARROW.values())
        if "wide_resnet" not in model  # of ReLU alone
        for activation in ("leaky_relu", "gelu")
    ),
    f"{NARROW['block_cnn']} model.batch_norm=false model.dropout=0.5",
]


def predictor_of(config: dict[str, Any]) -> Predictor:
    """Return a network that was not trained, as a run directory would give it."""

    class Run(RunDirectory):
        def __init__(self) -> None:
            self.path, self.config = Path("run"), config

        def model(self, checkpoint: str = "best") -> torch.nn.Module:
            return prepare(build(config["model"], "model")).eval()

    return Predictor(Run()).eval()


def images_of(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8)


def traced(predictor: Predictor) -> Any:
    """Trace a network as TensorBoard's graph is made."""
    return torch.jit.trace(predictor, images_of(40), check_trace=False)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")  # TensorBoard's way is deprecated
@pytest.mark.parametrize("line", MODELS)
def test_every_network_becomes_a_file_and_a_trace_for_any_batch(
    line: str, composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "STAGES", ((4,), (4,), (8, 8), (8, 8), (8, 8)))  # as many layers, less to write
    predictor = predictor_of(composed(*SMALL, *line.split()))
    write_onnx(predictor, tmp_path / "model.onnx")
    trace = traced(predictor)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for images in map(images_of, BATCHES):
        with torch.inference_mode():
            expected = predictor(images)
            torch.testing.assert_close(trace(images), expected, atol=1e-5, rtol=0)
        answer = session.run(None, {INPUT: images.numpy()})[0]
        np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace:FutureWarning")  # TensorBoard's way is deprecated
@pytest.mark.parametrize("line", VARIANTS)
def test_no_trace_keeps_the_batch_that_it_was_made_with(line: str, composed: Callable[..., Any]) -> None:
    predictor = predictor_of(composed(*SMALL, *line.split()))
    example = images_of(40)
    shapes = {"images": {0: torch.export.Dim("n")}}
    exported = torch.export.export(predictor, (example,), dynamic_shapes=shapes).module()
    trace = traced(predictor)
    for images in map(images_of, BATCHES):
        with torch.inference_mode():
            expected = predictor(images)
            torch.testing.assert_close(exported(images), expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(trace(images), expected, atol=1e-5, rtol=0)


CARD = {
    "cnn_b": ("583,830", "| Conv2d | 32, 28, 26 | 320 |", "95% interval", "Weakest class", "Intended use"),
    "patched": ("1,853,259", "Weakest class", "Intended use"),
}


@pytest.mark.parametrize("name", CARD)
def test_the_file_answers_as_the_checkpoint_and_a_card_says_what_it_is(
    name: str, runs: dict[str, Path], trained: Callable[..., Any]
) -> None:
    patched = ("model=mlp", "patch=embed", "patch.size=4", "trainer.max_epochs=1")
    run = runs[name] if name in runs else trained(*patched)[0]
    answer = call(scripts.export, run)
    assert answer.returncode == 0, answer.stderr
    assert "on all 100 test images" in answer.stdout
    folder = run / "export"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "README.md"}
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    images = drawn_garments(train=200, test=100, seed=0).test.numpy()
    expected = evaluate(RunDirectory(run), "test", "best").probabilities
    for batch in (1, 7, 100):
        (given,) = session.run(["probabilities"], {"images": images[:batch]})
        np.testing.assert_allclose(given, expected[:batch], atol=1e-5)
    card = (folder / "README.md").read_text()
    for part in CARD[name]:
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
