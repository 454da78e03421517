"""Classes of single images, and how fast a trained model gives them."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fmnist_lit.data.loader import normalize
from fmnist_lit.readers.run_directory import RunDirectory, gives_probabilities, named_outputs, require_numbers

WARM_UP, CALLS = 100, 2000  # single images; a 99th percentile then rests on 20 calls
BATCH, BATCHES = 128, 50  # the batch size of evaluation


class Predictor(nn.Module):
    """A trained model and all that belongs to it, from pixels to probabilities."""

    def __init__(self, run: RunDirectory, checkpoint: str = "best") -> None:
        super().__init__()
        self.path, self.model = run.path, run.model(checkpoint)
        self.normalization = run.config["data"]["normalization"]
        self.classes, self.statistics = run.classes()
        self.gives_probabilities = gives_probabilities(self.model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 images of (n, 28, 28) to probabilities of (n, outputs)."""
        output: torch.Tensor = self.model(normalize(images, self.normalization, self.statistics))
        return output if self.gives_probabilities else output.softmax(1)


def predict(predictor: Predictor, images: torch.Tensor) -> np.ndarray:
    """Return the probabilities, (n, outputs), of uint8 images of (n, 28, 28)."""
    with torch.inference_mode():
        answers = torch.cat([predictor(batch) for batch in images.split(BATCH)])
    return require_numbers(answers, predictor.path, len(predictor.classes)).numpy()


def answer(probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return one image's class and the probability of each class."""
    names = named_outputs(classes, len(probabilities))
    return {
        "class": names[int(probabilities.argmax())],
        "probabilities": dict(zip(names, map(float, probabilities), strict=True)),
    }


def benchmark(predictor: Predictor) -> dict[str, float]:
    """Measure answers to noise: milliseconds for one image, images per second in batches.

    From pixels in memory to probabilities; reading a file is not counted.
    """
    single, batches = seconds(predictor, 1, CALLS, WARM_UP), seconds(predictor, BATCH, BATCHES, BATCHES // 10)
    return {
        "latency_median_ms": float(np.median(single)) * 1e3,
        "latency_p99_ms": float(np.percentile(single, 99)) * 1e3,
        "images_per_second": BATCH / float(np.median(batches)),
        "batch_size": BATCH,
        "threads": torch.get_num_threads(),
    }


def seconds(predictor: Predictor, size: int, calls: int, warm_up: int) -> list[float]:
    """Return the time of each of some calls with a batch of noise."""
    images, found = torch.randint(0, 256, (size, 28, 28), dtype=torch.uint8), []
    with torch.inference_mode():
        for _ in range(warm_up + calls):
            started = time.perf_counter()
            predictor(images)
            found.append(time.perf_counter() - started)
    return found[warm_up:]
