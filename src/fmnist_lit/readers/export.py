"""A trained model as an ONNX file that needs nothing of this project, checked image by image; its card."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmnist_lit.errors import UserError
from fmnist_lit.models.layer_table import layer_table, parameter_count
from fmnist_lit.readers.predict import BATCH, Predictor, predict
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.readers.text import render
from fmnist_lit.run_files import read_metrics

OPSET = 18  # of 2022: any onnxruntime since 1.14 reads it
INPUT, OUTPUT = "images", "probabilities"


def require_onnx() -> Any:
    """Return onnxruntime.

    Raises:
        UserError: the packages for ONNX are not installed.
    """
    try:
        for name in ("onnx", "onnxscript"):  # PyTorch's exporter needs both
            import_module(name)
        return import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'fmnist-lit[export]'.") from error


def write_onnx(predictor: Predictor, path: Path) -> None:
    """Write all from pixels, uint8 of (n, 28, 28), to probabilities, (n, outputs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's exporter about itself
        torch.onnx.export(
            predictor.eval(),
            (torch.zeros(2, 28, 28, dtype=torch.uint8),),
            path,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            verbose=False,
        )


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


def model_card(run: RunDirectory, predictor: Predictor, metrics: Mapping[str, Any], difference: float) -> str:
    """Return a model card (Mitchell et al. 2019): what a model is, how it was trained, where it fails.

    Args:
        metrics: of ``evaluate.metrics`` on the test images.
        difference: largest difference of a probability between the file and the model.
    """
    classes = metrics["classes"]
    return render(
        "model_card.md",
        parameters=parameter_count(predictor.model),
        outputs=predict(predictor, torch.zeros(1, 28, 28, dtype=torch.uint8)).shape[1],
        layers=layer_table(run.untrained_model(len(predictor.classes))),
        weakest=min(classes, key=lambda name: classes[name]["recall"]),
        metrics=metrics,
        difference=difference,
        config=run.config,
        recorded=read_metrics(run.path),
    )
