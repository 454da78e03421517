"""Random changes of whole batches: each image its own, the same for the same seed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.v2 import functional

import scripts.evaluate
from fmnist_lit.build import build
from fmnist_lit.data.augment import Augmentation, batch_generator, transformed
from fmnist_lit.data.loader import BatchLoader
from fmnist_lit.data.synthetic import drawn_garments
from tests.conftest import call

EVERYTHING = Augmentation(shift=2, flip=0.5, rotation=10.0, zoom=0.1, noise=0.05, erasing=0.5)
ONE_EACH = {
    "shift": Augmentation(shift=2),
    "flip": Augmentation(flip=0.5),
    "rotation": Augmentation(rotation=10.0),
    "zoom": Augmentation(zoom=0.2),
    "noise": Augmentation(noise=0.1),
    "erasing": Augmentation(erasing=0.5),
    "everything": EVERYTHING,
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def garments() -> torch.Tensor:
    return drawn_garments(train=200, test=100, seed=0).test


@pytest.mark.parametrize("name", ONE_EACH)
def test_each_image_gets_its_own_change(name: str, garments: torch.Tensor) -> None:
    same = garments[7].expand(40, 28, 28)
    changed = ONE_EACH[name](same, batch_generator(CPU, 0, 0, 0))
    assert changed.shape == (40, 28, 28)
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 255.001
    kinds = len(torch.unique(changed.flatten(1), dim=0))
    assert kinds == 2 if name == "flip" else kinds > 10


def test_no_two_seeds_share_their_validation_changes(composed: Any) -> None:
    numbers = set()
    config = composed("data=synthetic", "data.images.train=200", "data.images.test=100")
    for seed in range(50):
        data = build(config["data"], seed=seed, augmentation=Augmentation(noise=0.1, validation=True))
        data.setup()
        for loader in (data.train_batches(), data.val_dataloader()["val"]):
            generator = batch_generator(CPU, loader.augmentation_seed, 0, 0)
            numbers.add(generator.initial_seed())
    assert len(numbers) == 100


@pytest.mark.parametrize("name", ONE_EACH)
def test_changes_depend_on_seed_epoch_and_batch_alone(name: str, garments: torch.Tensor) -> None:
    def changed(*numbers: int) -> torch.Tensor:
        return ONE_EACH[name](garments, batch_generator(CPU, *numbers))

    first = changed(0, 1, 2)
    assert torch.equal(first, changed(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 0, 2)):
        assert not torch.equal(first, changed(*other))


def test_no_change_leaves_every_pixel(garments: torch.Tensor) -> None:
    assert not Augmentation().changes_images
    assert torch.equal(Augmentation()(garments, batch_generator(CPU, 0, 0, 0)), garments.float())


def test_a_mirror_image_and_a_shift_are_exact(garments: torch.Tensor) -> None:
    n = len(garments)
    ones, zeros, nothing = torch.ones(n), torch.zeros(n), torch.zeros(n, 2)
    mirrored = transformed(garments.float(), zeros, ones, ones.bool(), nothing)
    torch.testing.assert_close(mirrored, garments.flip(2).float(), rtol=0, atol=0.01)
    shift = torch.tensor([3.0, -2.0]).expand(n, 2)  # right and up
    moved = transformed(garments.float(), zeros, ones, zeros.bool(), shift)
    torch.testing.assert_close(moved[:, :-2, 3:], garments[:, 2:, :-3].float(), rtol=0, atol=0.01)
    assert moved[:, -2:].abs().max() < 0.01
    assert moved[:, :, :3].abs().max() < 0.01


@pytest.mark.parametrize(
    ("angle", "size", "shift"), [(30.0, 1.0, [0, 0]), (0.0, 1.3, [0, 0]), (-12.0, 0.8, [4, -3])]
)
def test_turning_and_scaling_equal_torchvisions(
    angle: float, size: float, shift: list[float], garments: torch.Tensor
) -> None:
    images, n = garments.float(), len(garments)
    ours = transformed(
        images,
        torch.full((n,), angle),
        torch.full((n,), size),
        torch.zeros(n, dtype=torch.bool),
        torch.tensor(shift, dtype=torch.float32).expand(n, 2),
    )
    theirs = functional.affine(
        images, -angle, shift, size, [0.0, 0.0], interpolation=functional.InterpolationMode.BILINEAR
    )
    inner = (..., slice(3, -3), slice(3, -3))  # torchvision treats what comes in over the border otherwise
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=0, atol=0.05)


def test_shifts_are_whole_pixels_up_to_the_limit(garments: torch.Tensor) -> None:
    dot = torch.zeros(500, 28, 28, dtype=torch.uint8)
    dot[:, 14, 14] = 255
    moved = Augmentation(shift=2)(dot, batch_generator(CPU, 0, 0, 0))
    places = {tuple(place) for place in (moved > 254).nonzero()[:, 1:].tolist()}
    assert places == {(14 + down, 14 + right) for down in range(-2, 3) for right in range(-2, 3)}


def test_noise_has_its_deviation_and_stays_in_range() -> None:
    grey = torch.full((50, 28, 28), 128, dtype=torch.uint8)
    noisy = Augmentation(noise=0.1)(grey, batch_generator(CPU, 0, 0, 0))
    assert noisy.std().item() / 255 == pytest.approx(0.1, rel=0.03)
    black = Augmentation(noise=0.1)(torch.zeros_like(grey), batch_generator(CPU, 0, 0, 0))
    assert black.min() == 0


def test_erasing_blackens_one_rectangle_of_the_stated_size() -> None:
    white = torch.full((2000, 28, 28), 255, dtype=torch.uint8)
    black = Augmentation(erasing=0.25)(white, batch_generator(CPU, 0, 0, 0)) == 0
    touched = black.flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.25, abs=0.03)
    for mask in black[touched][:50]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    share = black[touched].float().mean((1, 2))
    assert share.max() <= 0.36
    assert share.min() >= 0.01


def test_every_epoch_has_other_changes_and_the_same_images(garments: torch.Tensor) -> None:
    labels, epoch = torch.arange(100), [0]
    loader = BatchLoader(
        garments,
        labels,
        32,
        "unit",
        None,
        lambda: epoch[0],
        augmentation=Augmentation(flip=0.5),
        augmentation_seed=3,
    )
    plain = torch.cat([images for images, _ in BatchLoader(garments, labels, 32, "unit")])
    epochs = []
    for epoch[0] in (0, 1, 0):
        epochs.append(torch.cat([images for images, _ in loader]))
        mirrored = (epochs[-1] - plain.flip(3)).abs().amax((1, 2, 3)) < 1e-3
        kept = (epochs[-1] - plain).abs().amax((1, 2, 3)) < 1e-3
        assert (mirrored | kept).all()
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_validation_images_change_while_training_only(trained: Any) -> None:
    """The noise leaves nothing to see; the figures of the end are those of the images as they are."""
    overrides = ("model=mlp4", "augment.noise=50", "augment.validation=true")
    directory, metrics = trained(*overrides, "data.val_fraction=0.5", "trainer.max_epochs=2")
    again, same = trained(*overrides, "data.val_fraction=0.5", "trainer.max_epochs=2")
    assert (directory / "history.csv").read_text().splitlines()[1].split(",")[1:5] == (
        (again / "history.csv").read_text().splitlines()[1].split(",")[1:5]
    )
    assert metrics["val"] == same["val"]
    assert call(scripts.evaluate, directory, "--split", "val", "--folds", 2).returncode == 0
    evaluated = json.loads(Path(directory, "evaluation", "val", "metrics.json").read_text())
    assert evaluated["accuracy"] == metrics["val"]["accuracy"]
    unchanged, _ = trained("model=mlp4", "augment.noise=50", "data.val_fraction=0.5", "trainer.max_epochs=2")
    rows = [(path / "history.csv").read_text().splitlines()[1] for path in (directory, unchanged)]
    assert rows[0].split(",")[1:3] == rows[1].split(",")[1:3], "the same training"
    assert rows[0].split(",")[3:5] != rows[1].split(",")[3:5], "other validation images"
