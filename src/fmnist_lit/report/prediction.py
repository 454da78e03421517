"""Classes of single pictures, and how fast a trained model gives them."""

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from fmnist_lit.data.images import CLASSES
from fmnist_lit.data.loader import normalize
from fmnist_lit.report.run_directory import RunDirectory, require_answers

WARM_UP, CALLS = 100, 2000  # single images; a 99th percentile then rests on 20 calls
BATCH, BATCHES = 128, 50  # the batch size of evaluation


class Predictor(nn.Module):
    """A trained model and all that belongs to it, from pixels to probabilities."""

    def __init__(self, run: RunDirectory, checkpoint: str = "best") -> None:
        super().__init__()
        self.path = run.path
        self.model = run.model(checkpoint)
        self.normalization = run.config["data"]["normalization"]
        self.gives_probabilities = run.gives_probabilities()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images of (n, 28, 28) to probabilities of (n, 10)."""
        output: torch.Tensor = self.model(normalize(images, self.normalization))
        return output if self.gives_probabilities else output.softmax(1)


def predict(predictor: Predictor, images: torch.Tensor) -> np.ndarray:
    """Return the probabilities, (n, 10), of uint8 images of (n, 28, 28)."""
    with torch.inference_mode():
        answers = torch.cat([predictor(batch) for batch in images.split(BATCH)])
    return require_answers(answers, predictor.path).numpy()


def answer(probabilities: np.ndarray) -> dict[str, Any]:
    """Return one image's class and the probability of each class."""
    return {
        "class": CLASSES[int(probabilities.argmax())],
        "probabilities": {name: float(p) for name, p in zip(CLASSES, probabilities, strict=True)},
    }


def benchmark(predictor: Predictor) -> dict[str, float]:
    """Measure answers to noise: milliseconds for one image, images per second in batches.

    From pixels in memory to probabilities; reading a file is not counted.
    """
    images = torch.randint(0, 256, (BATCH, 28, 28), dtype=torch.uint8)
    with torch.inference_mode():
        single = [seconds(predictor, images[:1]) for _ in range(WARM_UP + CALLS)][WARM_UP:]
        batches = [seconds(predictor, images) for _ in range(BATCHES)][BATCHES // 10 :]
    return {
        "latency_median_ms": float(np.median(single)) * 1e3,
        "latency_p99_ms": float(np.percentile(single, 99)) * 1e3,
        "images_per_second": BATCH / float(np.median(batches)),
        "batch_size": BATCH,
        "threads": torch.get_num_threads(),
    }


def seconds(predictor: Predictor, images: torch.Tensor) -> float:
    """Return the time of one call."""
    started = time.perf_counter()
    predictor(images)
    return time.perf_counter() - started
