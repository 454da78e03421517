"""Initial weights and first losses of the five models, as they were: no change of code may move them unseen.

A plain loop over a prepared model, so that nothing but models, data and PyTorch is held. After a change that
is meant to move them: ``python -m tests.test_golden``.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fmnist_lit.data.loader import BatchLoader
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.models.cnn import CNNA, CNNB, CNNC
from fmnist_lit.models.initialization import initialize
from fmnist_lit.models.mlp import MLP
from fmnist_lit.models.speedups import prepare

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 20
SINGLE = 10  # steps in single precision: later, processors differ by a thousandth
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp4": lambda: MLP([500, 250, 250]),
    "mlp_custom": lambda: MLP([900, 500, 450, 250], activation="leaky_relu"),
    "cnn_a": CNNA,
    "cnn_b": CNNB,
    "cnn_c": CNNC,
}
SCHEMES = ("default", "he_normal", "xavier_uniform")


def initial_weights(name: str, scheme: str) -> list[list[float]]:
    """Return mean, deviation and first value of each tensor, drawn from seed 0."""
    torch.manual_seed(0)
    model = MODELS[name]()
    initialize(model, linear=scheme, conv=scheme, std=0.05)
    return [
        [weight.mean().item(), weight.std(correction=0).item(), weight.flatten()[0].item()]
        for weight in prepare(model).state_dict().values()
        if weight.is_floating_point()
    ]


def first_losses(name: str, dtype: torch.dtype) -> list[float]:
    """Return the losses of the first steps on drawn images, with dropout, from seed 0."""
    torch.manual_seed(0)
    model = prepare(MODELS[name]()).to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    data = drawn_garments(train=STEPS * 32 // 10 * 10, test=10, seed=0)
    losses = []
    for images, labels in BatchLoader(data.train, data.train_labels.long(), 32, "standard", shuffle_seed=0):
        loss = nn.functional.cross_entropy(model(images.to(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def golden() -> dict[str, Any]:
    """Return what the file holds."""
    contents: dict[str, Any] = json.loads(GOLDEN.read_text())
    return contents


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_initial_weights(name: str, scheme: str) -> None:
    drawn = initial_weights(name, scheme)
    expected = golden()["weights"][name][scheme]
    assert len(drawn) == len(expected)
    for ours, theirs in zip(drawn, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_first_losses(name: str) -> None:
    assert first_losses(name, torch.float64) == pytest.approx(golden()["losses"][name], rel=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_first_losses_in_single_precision(name: str) -> None:
    losses = first_losses(name, torch.float32)[:SINGLE]
    assert losses == pytest.approx(golden()["single_precision"][name], rel=1e-3)


def regenerate() -> None:
    """Write the file anew."""
    rounded = {
        name: {
            scheme: [[float(f"{v:.9g}") for v in row] for row in initial_weights(name, scheme)]
            for scheme in SCHEMES
        }
        for name in MODELS
    }
    exact = {name: [float(f"{v:.9g}") for v in first_losses(name, torch.float64)] for name in MODELS}
    single = {
        name: [float(f"{v:.6g}") for v in first_losses(name, torch.float32)[:SINGLE]] for name in MODELS
    }
    text = json.dumps({"losses": exact, "single_precision": single, "weights": rounded}, indent=1)
    rows = re.sub(r"\[\s+([^\[\]]+?)\s+\]", lambda row: "[" + " ".join(row[1].split()) + "]", text)
    GOLDEN.write_text(rows + "\n")


if __name__ == "__main__":
    regenerate()
