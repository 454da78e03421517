"""Starting from another run's weights, and parts of a model that stay as they are."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fmnist_lit.errors import UsageError
from fmnist_lit.finetune import freeze, start_from
from fmnist_lit.models.cnn import CNNA
from fmnist_lit.models.mlp import MLP
from fmnist_lit.run import build_classifier
from tests.fixtures import SMALL, answer_in_process, run_on_two

Config = dict[str, Any]


@pytest.fixture(scope="module")
def source(trained: Callable[..., Any]) -> Path:
    """A finished run with BatchNorm and an average of its weights."""
    return Path(trained("model=cnn_a", "ema_decay=0.5", "trainer.max_epochs=2")[0])


def weights(run: Path, checkpoint: str = "best") -> dict[str, torch.Tensor]:
    return dict(torch.load(run / "checkpoints" / f"{checkpoint}.ckpt", weights_only=True)["state_dict"])


def average(run: Path) -> dict[str, torch.Tensor]:
    prefix = "averaged.module."
    return {key.removeprefix(prefix): v for key, v in weights(run).items() if key.startswith(prefix)}


@pytest.mark.parametrize("named", ["", "checkpoints/best.ckpt"])
def test_a_run_starts_from_the_average_of_another(
    named: str, source: Path, composed: Callable[..., Config]
) -> None:
    config = composed("model=cnn_a", "init=he_normal", f"init_from={source / named}")
    classifier = build_classifier(config)
    state = classifier.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in average(source).items())
    assert any(not torch.equal(weights(source)[f"model.{name}"], value) for name, value in state.items())
    assert classifier.about[-1] == f"{len(state)} of {len(state)} tensors are from {source / named}."


def test_what_fits_is_taken_and_what_does_not_is_told(source: Path) -> None:
    model = CNNA(classes=12)
    drawn = model.classifier[0].weight.clone()
    said = start_from(model, str(source))
    assert torch.equal(model.features[0].weight, average(source)["features.0.weight"])
    assert torch.equal(model.classifier[0].weight, drawn)
    assert said == (
        f"14 of 16 tensors are from {source}. Not: classifier.0.weight is 10x196 there, 12x196 here; "
        "classifier.0.bias is 10 there, 12 here."
    )
    renamed = nn.ModuleDict({"features": model.features, "head": nn.Linear(196, 10)})
    assert "head.weight is not there; head.bias is not there; classifier.0.weight is not here" in start_from(
        renamed, str(source)
    )


def test_nothing_that_fits_is_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="none of its weights fits this model") as failure:
        start_from(MLP([9]), str(source))
    assert "hidden.0.weight is not there" in str(failure.value)
    assert "more" in str(failure.value)
    statistics_alone = nn.Sequential()
    statistics_alone.add_module("features", nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)))
    with pytest.raises(UsageError, match=r"features\.0\.weight is 4x1x3x3 there, 5x1x3x3 here"):
        start_from(statistics_alone, str(source))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from=RUN/typo"], "RUN/typo"),
        (["init_from=RUN/config.yaml"], "RUN/config.yaml is damaged or no checkpoint"),
        (["init_from=FOLDER"], "FOLDER/checkpoints/best.ckpt is missing."),
        (["init_from=RUN/checkpoints", "model=mlp4"], "none of its weights fits"),
        (["init_from=RUN", "model=mlp4"], "none of its weights fits"),
        (["init_from=DAMAGED"], "DAMAGED/checkpoints/best.ckpt"),
        (["init_from=''"], "init_from"),
        (["freeze=[feature]"], "Did you mean features?"),
        (["freeze=[features.1.running_mean]"], "the model has no weights features.1.running_mean"),
        (["freeze=[features,classifier]"], "leaves nothing to train"),
        (["freeze=[feat]"], "the model has no weights feat. "),
        (["freeze=features"], "it must be a list"),
        (["freeze=['']"], "freeze="),
    ],
)
def test_what_cannot_start_is_refused_before_a_run_begins(
    overrides: list[str], message: str, source: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    if "DAMAGED" in overrides[0]:
        shutil.copytree(source, damaged)
        path = damaged / "checkpoints" / "best.ckpt"
        content = path.read_bytes()
        path.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])

    def named(text: str) -> str:
        for key, value in {"RUN": source, "FOLDER": tmp_path, "DAMAGED": damaged}.items():
            text = text.replace(key, str(value))
        return text

    arguments = [*SMALL, "model=cnn_a", *map(named, overrides), f"hydra.run.dir={tmp_path / 'run'}"]
    if "model=mlp4" in arguments:
        arguments.remove("model=cnn_a")
    status, _, error = answer_in_process(arguments)
    assert status == 2
    assert named(message) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run" / "config.yaml").exists()
    if "init_from=FOLDER" in overrides or "init_from=RUN/typo" in overrides:
        assert not (tmp_path / "run").exists()


def test_frozen_parts_stay_to_the_bit(source: Path, trained: Callable[..., Any]) -> None:
    overrides = ("model=cnn_a", f"init_from={source}", "freeze=[features,classifier.0.bias]", "ema_decay=0.9")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run, metrics = trained(*overrides)
    before, after = average(source), weights(run)
    trained_ones = ["classifier.0.weight"]
    for name, value in before.items():
        assert torch.equal(after[f"model.{name}"], value) == (name not in trained_ones), name
        if value.is_floating_point():  # PyTorch averages a count of batches in whole numbers
            assert torch.equal(after[f"averaged.module.{name}"], value) == (name not in trained_ones), name
    assert metrics["parameters"] == 1960
    optimizer = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert sum(len(group["params"]) for group in optimizer["param_groups"]) == 1


@pytest.mark.parametrize(
    ("names", "still"),
    [
        (["features"], [1, 5]),
        (["features.1"], [1]),
        (["features.1.weight", "features.1.bias"], [1]),
        (["features.1.weight"], []),
        (["features.0", "classifier"], []),
        ([], []),
    ],
)
def test_normalization_of_frozen_parts_is_still(names: list[str], still: list[int]) -> None:
    model = CNNA()
    assert freeze(model, names) == [model.features[index] for index in still]


def test_normalization_stays_still_in_training_mode(composed: Callable[..., Config]) -> None:
    classifier = build_classifier(composed("model=cnn_a", "freeze=[features.1]"))
    for _ in range(2):
        modes = [classifier.model.features[index].training for index in (1, 5)]
        assert (classifier.training, modes) == (True, [False, True])
        classifier.eval()
        assert not classifier.model.features[5].training
        classifier.train()


@pytest.mark.parametrize("checkpoint", [True, False], ids=["with a checkpoint", "killed before the first"])
def test_a_resume_needs_the_source_only_before_the_first_checkpoint(
    checkpoint: bool, source: Path, trained: Callable[..., Any], tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(source, tmp_path / "source"))
    (tmp_path / "run").mkdir()
    run, metrics = trained(
        "model=cnn_a", f"init_from={moved}", "freeze=[features]", directory=tmp_path / "run"
    )
    before = weights(run, "last")
    (run / "metrics.json").unlink()
    if not checkpoint:
        shutil.rmtree(run / "checkpoints")
        (run / "history.csv").unlink()
    else:
        shutil.rmtree(moved)
    status, _, error = answer_in_process([f"resume={run}"])
    assert (status in (0, None), error) == (True, "")
    assert json.loads((run / "metrics.json").read_text())["test"] == metrics["test"]
    assert all(torch.equal(value, before[name]) for name, value in weights(run, "last").items())


def test_the_source_is_meant_from_the_folder_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = answer_in_process([*SMALL, "init_from=mine", "hydra.job.chdir=true"])
    assert status == 2
    assert f"init_from={tmp_path}/mine: there is no such run." in error


def test_two_processes_train_what_is_not_frozen(
    source: Path, composed: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = tmp_path / "run"
    run.mkdir()
    small = [item for item in SMALL if item != "trainer=cpu"]
    overrides = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1", "model=cnn_a")
    run_on_two(composed(*small, *overrides, f"init_from={source}", "freeze=[features]"), run)
    changed = {
        name for name, value in average(source).items() if not value.equal(weights(run)[f"model.{name}"])
    }
    assert changed == {"classifier.0.weight", "classifier.0.bias"}
    assert f"16 of 16 tensors are from {source}." in (run / "train.log").read_text()
