"""Single steps of Lightning's and several at once give the same bits, whatever is trained and how."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fmnist_lit.check import check
from fmnist_lit.run import run

# 240 training images: eight batches, the last of them smaller.
DATA = ("data=synthetic", "data.images.train=300", "data.images.test=50", "data.batch_size=32")
COMMON = (*DATA, "trainer=cpu", "trainer.max_epochs=2", "threads=1", "logger=none")
RECIPES = {
    "mlp4": ("model=mlp4", "augment=shift_flip", "augment.erasing.probability=0.5"),
    "mlp_custom": ("model=mlp_custom", "optim=adam", "augment=mixup", "label_smoothing=0.1"),
    "cnn_a": ("model=cnn_a", "augment=cutmix", "schedule=cosine"),
    "cnn_b": ("model=cnn_b", "augment.noise.std=0.1", "trainer.gradient_clip_val=0.5"),
    "cnn_c": ("model=cnn_c", "augment=shift_flip", "ema_decay=0.9", "optim=adamw"),
    "plateau": (
        "model=mlp4",
        "optim.lr=0.2",
        "schedule=plateau",
        "schedule.patience=0",
        "trainer.max_epochs=5",
    ),
    "one-cycle": ("model=cnn_a", "schedule=onecycle", "optim.lr=0.05", "optim=nadam"),
    "step": ("model=cnn_a", "schedule=step", "schedule.step_size=1", "optim=rmsprop"),
    "clipped values": (
        *("model=mlp4", "trainer.gradient_clip_val=0.001", "+trainer.gradient_clip_algorithm=value"),
    ),
    "double": ("model=cnn_a", "trainer.precision=64-true", "optim=adam"),
    "bfloat16": ("model=cnn_c", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"),
    "products in a step": ("model=cnn_c", "trainer.precision=bf16-mixed", "optim=muon"),
}
MEASURED = ("seconds", "images_per_second")


@pytest.mark.parametrize("name", RECIPES)
def test_one_step_and_many_at_once_give_the_same_bits(name: str, composed: Any, tmp_path: Path) -> None:
    weights, metrics, histories = [], [], []
    for steps in (1, 3, 32):  # of eight batches
        config = composed(*COMMON, *RECIPES[name]) | {"steps_per_execution": steps}
        check(config)
        directory = tmp_path / str(steps)
        directory.mkdir()
        kept = run(config, directory, {}, "")
        metrics.append({key: value for key, value in kept.items() if key not in MEASURED})
        last = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)
        weights.append(
            last["state_dict"] | {"rate": torch.tensor(last["optimizer_states"][0]["param_groups"][0]["lr"])}
        )
        rows = (directory / "history.csv").read_text().splitlines()
        histories.append([float(value) for row in rows[1:] for value in row.split(",")[:-2]])  # but the times
    for other in range(1, len(weights)):
        assert metrics[other] == metrics[0]
        assert histories[other] == pytest.approx(histories[0], rel=1e-12)  # sums of another order
        assert weights[other].keys() == weights[0].keys()
        for key, value in weights[0].items():
            assert torch.equal(weights[other][key], value), key
