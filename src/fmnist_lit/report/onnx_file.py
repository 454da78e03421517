"""A trained model as an ONNX file that needs nothing of this project, checked on every test image."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmnist_lit.errors import UserError
from fmnist_lit.report.prediction import BATCH, Predictor, predict

OPSET = 18  # of 2022: any onnxruntime since 1.14 reads it
INPUT, OUTPUT = "images", "probabilities"


def require_onnx() -> Any:
    """Return onnxruntime.

    Raises:
        UserError: the packages for ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401 (PyTorch's exporter needs both)
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'fmnist-lit[export]'.") from error
    return onnxruntime


def write_onnx(predictor: Predictor, path: Path) -> None:
    """Write normalization, model and softmax: uint8 images of (n, 28, 28) to probabilities of (n, 10)."""
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)
    exporter = logging.getLogger("torch.onnx")
    level, silence = exporter.level, io.StringIO()
    exporter.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")  # of PyTorch's exporter about itself
            torch.onnx.export(
                predictor.eval(),
                (example,),
                path,
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={"images": {0: torch.export.Dim("n")}},
                verbose=False,
            )
    finally:
        exporter.setLevel(level)


def largest_difference(path: Path, predictor: Predictor, images: torch.Tensor) -> float:
    """Compare a file's probabilities with the model's, image by image.

    Raises:
        UserError: the file gives another class for an image.
    """
    session = require_onnx().InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch in images.split(BATCH)]
    ours, theirs = predict(predictor, images), np.concatenate(batches)
    others = int((ours.argmax(1) != theirs.argmax(1)).sum())
    if others:
        raise UserError(f"the ONNX file gives another class than the checkpoint for {others} images.")
    return float(np.abs(ours - theirs).max())
