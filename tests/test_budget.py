"""Training length by computation."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch.optim import SGD

from fmnist_lit.budget import length_within_target
from fmnist_lit.classifier import Classifier
from fmnist_lit.config import read_config
from fmnist_lit.errors import UsageError
from fmnist_lit.ingredients import HardPart
from fmnist_lit.models.compute import training_flop
from fmnist_lit.models.mlp import MLP
from fmnist_lit.resume import resume
from fmnist_lit.run import run
from tests.test_resume import Killed, assert_same, die

A_STEP = 16 * training_flop(MLP([100, 50])) / 1e12
TARGET = ("model=mlp", "model.hidden=[100,50]", "data.batch_size=16", f"trainer.target_tflop={A_STEP * 25.5}")


def test_a_target_of_computation_becomes_epochs_of_one_length(trained: Any) -> None:
    """160 images in ten batches: three epochs of eight for two and a half of ten."""
    directory, metrics = trained(*TARGET, "schedule=linear")
    assert metrics["training_tflop"] == pytest.approx(24 * A_STEP)
    assert metrics["epochs"] == 3
    history = pd.read_csv(directory / "history.csv")
    assert history["val_accuracy"].notna().all(), "the last epoch may be the best"
    rates = history["learning_rate"].tolist()[1:]
    assert rates == pytest.approx([0.01 * 16 / 19.2, 0.01 * 8 / 19.2]), (
        "up for 4.8 of 24 steps, down for the rest"
    )
    asked_for = read_config(directory)["trainer"]
    assert asked_for["limit_train_batches"] is None, "a run is what was asked for"


@pytest.mark.parametrize("target", [0.3, 1.0, 1.45, 2.0, 3.3, 7.0])
def test_a_target_is_never_passed_and_nearly_reached(target: float) -> None:
    """160 images in batches of 48, the last one of 16, which a shorter epoch leaves out."""
    network, steps = MLP([100, 50]), (48, 48, 48, 16)
    an_image = training_flop(network) / 1e12
    flags = {"target_tflop": target * 160 * an_image * (1 + 1e-9)}
    length = length_within_target(flags, network, SGD(network.parameters()), 160, 48)
    seen = length["max_epochs"] * sum(steps[: length["limit_train_batches"]])
    assert seen <= target * 160 + 1e-3
    assert target * 160 - seen < 48 * length["max_epochs"], "at most a batch of each epoch is left out"
    assert seen == target * 160 or target != int(target), "whole epochs where they fit"


def test_what_a_callback_evaluates_is_within_the_target(trained: Any) -> None:
    """A forward pass of all 160 images: a product in each layer, of two or, but for the first, three."""
    _, metrics = trained(*TARGET, f"trainer.target_tflop={A_STEP * 26}", "callbacks=hard_part")
    forward, training = 784 * 100 + 100 * 50 + 50 * 10, 2 * 784 * 100 + 3 * (100 * 50 + 50 * 10)
    assert metrics["training_tflop"] == pytest.approx((21 + 160 / 16 * forward / training) * A_STEP)
    assert metrics["epochs"] == 3, "of seven steps"


def test_a_target_that_a_callback_uses_up_leaves_nothing(composed: Any, tmp_path: Path) -> None:
    small = ("data=synthetic", "data.images.train=200", "data.images.test=50", "trainer=cpu", "logger=none")
    config = composed(*small, *TARGET, f"trainer.target_tflop={A_STEP * 3}")
    with pytest.raises(UsageError, match=r"a single step takes 3\.2e-05 TFLOP"):
        run(config, tmp_path, {}, "", callbacks=[HardPart(0.5, easiest=0.5)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", ["linear", "constant"])  # one asks for the steps before training
@pytest.mark.parametrize("call", [17, 23], ids=["from the end of an epoch", "from within it"])
def test_a_run_of_a_target_goes_on_to_the_same_bits(
    call: int, schedule: str, composed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("data=synthetic", "data.images.train=200", "data.images.test=50", "trainer=cpu", "threads=1")
    config = composed(*small, "logger=none", *TARGET, f"schedule={schedule}", "callbacks.resume.every_s=0")
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    run(config, tmp_path / "once", {}, "")
    training_step, calls = Classifier.training_step, []

    def dying(self: Classifier, *arguments: Any) -> Any:
        calls.append(1)
        return die() if len(calls) == call else training_step(self, *arguments)

    monkeypatch.setattr(Classifier, "training_step", dying)
    with pytest.raises(Killed):
        run(config, tmp_path / "twice", {}, "")
    run(config, tmp_path / "twice", {}, "", resumed=True)
    assert_same(tmp_path / "twice", tmp_path / "once")
    with pytest.raises(UsageError, match=r"this run's length is trainer.target_tflop"):
        resume(tmp_path / "twice", changed=["trainer.max_epochs=9"])


def test_what_a_target_cannot_be_is_said(trained: Any) -> None:
    with pytest.raises(UsageError, match=r"a single step takes 5\.5e-06 TFLOP"):
        trained(*TARGET, "trainer.target_tflop=1e-12")
    for some in ("3", "1", "0.5"):  # 1 is a single batch, 1.0 are all
        with pytest.raises(UsageError, match=r"target_tflop: not with trainer.limit_train_batches"):
            trained(*TARGET, f"trainer.limit_train_batches={some}")
    with pytest.raises(UsageError, match=r"trainer.target_tflop: not with steps_per_execution=4"):
        trained(*TARGET, "steps_per_execution=4")
    with pytest.raises(UsageError, match=r"trainer.target_tflop=-1: .*more than 0"):
        trained(*TARGET, "trainer.target_tflop=-1")
