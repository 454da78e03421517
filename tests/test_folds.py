"""Cross-validation: a sweep over the folds."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from fmnist_lit.config import read_config
from fmnist_lit.data.split import fold_split
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run import build_data
from tests.fixtures import SMALL, answer_in_process

LABELS = torch.arange(200) % 10


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The jobs of a cross-validation, with another fraction and subset set beside it."""
    folder = tmp_path_factory.mktemp("sweep") / "jobs"
    overrides = ["data.folds=5", "data.fold=range(5)", "data.val_fraction=0.5", "model=cnn_a"]
    overrides += ["trainer.max_epochs=1", "data.train_subset=100", f"hydra.sweep.dir={folder}"]
    status, said, error = answer_in_process(["-m", *SMALL, *overrides])
    assert (status, error) == (0, "")
    assert all(f"data.fold={fold}" in said for fold in range(5))
    tests = [json.loads((folder / str(fold) / "metrics.json").read_text())["test"] for fold in range(5)]
    found = [of["accuracy"] for of in tests]
    assert "over 5 folds: val accuracy 0." in said
    assert f", test accuracy {fmean(found):.4f} ± {stdev(found):.4f}\n" in said
    return folder


def test_each_image_is_validated_once_in_equal_classes(sweep: Path) -> None:
    seen = []
    for fold in range(5):
        assert read_config(sweep / str(fold))["data"]["fold"] == fold
        images, labels = RunDirectory(sweep / str(fold)).data_module().splits["val"]
        assert labels.bincount().tolist() == [4] * 10
        seen += [image.numpy().tobytes() for image in images]
    every = RunDirectory(sweep / "0").data_set().train
    assert len(set(seen)) == len(seen) == 200
    assert set(seen) == {image.numpy().tobytes() for image in every}


def test_the_reader_has_the_splits_that_were_trained_on(sweep: Path) -> None:
    for fold in range(5):
        run = sweep / str(fold)
        data = build_data(read_config(run))
        data.setup()
        for split, (pixels, labels) in data.splits.items():
            images, of_reader = RunDirectory(run).data_module().splits[split]
            assert torch.equal(images, pixels)
            assert torch.equal(of_reader, labels)
        assert len(data.splits["train"][1]) == 100


def test_the_folds_have_results_of_their_own(sweep: Path) -> None:
    accuracies = [json.loads((sweep / str(fold) / "metrics.json").read_text())["val"] for fold in range(5)]
    assert len({row["loss"] for row in accuracies}) == 5


@pytest.mark.parametrize("folds", [2, 3, 7, 19])
def test_folds_are_stratified_whatever_the_sizes(folds: int) -> None:
    labels = (torch.arange(190) ** 2) % 3
    parts = [fold_split(labels, folds, fold, seed=0) for fold in range(folds)]
    assert torch.equal(torch.cat([held for _, held in parts]).sort().values, torch.arange(190))
    counts = torch.stack([labels[held].bincount(minlength=3) for _, held in parts])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    for kept, held in parts:
        assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(190))


def test_folds_depend_on_their_seed_alone() -> None:
    first = fold_split(LABELS, 5, 0, seed=0)[1]
    torch.manual_seed(3)
    assert torch.equal(first, fold_split(LABELS, 5, 0, seed=0)[1])
    assert not torch.equal(first, fold_split(LABELS, 5, 0, seed=1)[1])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folds=5", "data.fold=5"], "of data.folds=5 there are 0 to 4"),
        (["data.fold=1"], "data.fold=1: there are no folds"),
        (["data.folds=1"], "data.folds=1"),
        (["data.folds=5", "data.fold=-1"], "data.fold=-1"),
        (["data.folds=5", "data.fold=range(5)"], "requires --multirun"),
        (["data.folds=five"], "data.folds=five"),
    ],
)
def test_folds_that_cannot_be_are_refused_before_a_run_begins(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    status, _, error = answer_in_process([*SMALL, *overrides, f"hydra.run.dir={tmp_path / 'run'}"])
    assert status == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plateau_may_look_at_a_fold(composed: Callable[..., dict[str, Any]]) -> None:
    from fmnist_lit.check import check

    check(composed("data.folds=5", "data.val_fraction=0", "schedule=plateau"))
