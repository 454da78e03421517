"""Random changes of whole batches: each image its own, the same for the same seed."""

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.v2 import functional

import scripts.evaluate
from fmnist_lit.build import build
from fmnist_lit.data.augment import (
    Change,
    Changed,
    CutMix,
    Cutout,
    FMix,
    GaussianNoise,
    MixUp,
    RandomAffine,
    RandomErasing,
    batch_generator,
    transformed,
)
from fmnist_lit.data.loader import BatchLoader
from fmnist_lit.data.noise import PoissonNoise, SaltAndPepper, Speckle
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.run import build_data
from tests.fixtures import call


def in_turn(*changes: Change) -> Change:
    """Make one change of several, as a loader does."""

    def changed(images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Changed:
        for change in changes:
            images, labels = change(images, labels, generator)
        return images, labels

    return changed


ONE_EACH: dict[str, Change] = {
    "shift": RandomAffine(shift=2),
    "flip": RandomAffine(flip=0.5),
    "rotation": RandomAffine(rotation=10.0),
    "zoom": RandomAffine(zoom=0.2),
    "noise": GaussianNoise(0.1),
    "salt and pepper": SaltAndPepper(0.1),
    "speckle": Speckle(0.1),
    "poisson": PoissonNoise(),
    "erasing": RandomErasing(0.5),
    "everything": in_turn(
        RandomAffine(shift=2, flip=0.5, rotation=10.0, zoom=0.1), GaussianNoise(0.05), RandomErasing(0.5)
    ),
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def garments() -> torch.Tensor:
    return drawn_garments(train=200, test=100, seed=0).test


def change(by: Change, images: torch.Tensor, *numbers: int) -> torch.Tensor:
    """Return changed images, of seed, epoch and batch 0 if none are given."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    return by(images, labels, batch_generator(CPU, *(numbers or (0, 0, 0))))[0]


@pytest.mark.parametrize("name", ONE_EACH)
def test_each_image_gets_its_own_change(name: str, garments: torch.Tensor) -> None:
    same = garments[7].expand(40, 28, 28)
    changed = change(ONE_EACH[name], same)
    assert changed.shape == (40, 28, 28)
    assert changed.dtype == (torch.uint8 if name == "erasing" else torch.float32)
    assert changed.min() >= 0
    assert changed.max() <= 255.001
    kinds = len(torch.unique(changed.flatten(1), dim=0))
    assert kinds == 2 if name == "flip" else kinds > 10


def test_no_two_seeds_share_their_validation_changes(composed: Any) -> None:
    numbers = set()
    small = ("data=synthetic", "data.images.train=200", "data.images.test=100")
    config = composed(*small, "data.augment_validation=true")
    for seed in range(50):
        data = build(config["data"], "data", seed=seed, augmentations=[GaussianNoise(0.1)])
        data.setup()
        for loader in (data.train_dataloader().batches, data.val_dataloader()["val"]):
            generator = batch_generator(CPU, loader.augmentation_seed, 0, 0)
            numbers.add(generator.initial_seed())
    assert len(numbers) == 100


@pytest.mark.parametrize("name", ONE_EACH)
def test_changes_depend_on_seed_epoch_and_batch_alone(name: str, garments: torch.Tensor) -> None:
    def changed(*numbers: int) -> torch.Tensor:
        return change(ONE_EACH[name], garments, *numbers)

    first = changed(0, 1, 2)
    assert torch.equal(first, changed(0, 1, 2))
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 0, 2)):
        assert not torch.equal(first, changed(*other))


@pytest.mark.parametrize(
    "nothing", [RandomAffine(), GaussianNoise(0.0), RandomErasing(0.0, 0.4), Cutout(0, 0.4)]
)
def test_no_change_leaves_every_pixel(nothing: Change, garments: torch.Tensor) -> None:
    assert not nothing
    torch.testing.assert_close(change(nothing, garments).float(), garments.float(), rtol=0, atol=0.01)


def test_what_changes_nothing_is_left_out(composed: Any) -> None:
    assert not build_data(composed("data=synthetic")).augmentations
    chosen = build_data(composed("data=synthetic", "augment.noise.std=0.1", "augment.affine.zoom=0.1"))
    assert [type(augmentation).__name__ for augmentation in chosen.augmentations] == [
        "RandomAffine",
        "GaussianNoise",
    ]


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
    moved = change(RandomAffine(shift=2), dot)
    places = {tuple(place) for place in (moved > 254).nonzero()[:, 1:].tolist()}
    assert places == {(14 + down, 14 + right) for down in range(-2, 3) for right in range(-2, 3)}


def test_noise_has_its_deviation_and_stays_in_range() -> None:
    grey = torch.full((50, 28, 28), 128, dtype=torch.uint8)
    noisy = change(GaussianNoise(0.1), grey)
    assert noisy.std().item() / 255 == pytest.approx(0.1, rel=0.03)
    black = change(GaussianNoise(0.1), torch.zeros_like(grey))
    assert black.min() == 0


def test_erasing_blackens_one_rectangle_of_the_stated_size() -> None:
    white = torch.full((2000, 28, 28), 255, dtype=torch.uint8)
    black = change(RandomErasing(0.25), white) == 0
    touched = black.flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.25, abs=0.03)
    for mask in black[touched][:50]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    share = black[touched].float().mean((1, 2))
    assert share.max() <= 0.36
    assert share.min() >= 0.01


@pytest.mark.parametrize("kind", [partial(RandomErasing, 1.0), partial(Cutout, 8)], ids=["erasing", "cutout"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_is_erased_is_as_bright_as_was_said(kind: Callable[..., Change], dtype: torch.dtype) -> None:
    white = torch.full((100, 28, 28), 255, dtype=dtype)
    for value, expected in ((None, 0), (0.0, 0), (0.4, 102), (1.0, 255)):
        erased = change(kind() if value is None else kind(value=value), white)
        assert set(erased.unique().tolist()) == {expected, 255}


EACH: dict[str, Change] = {
    "affine": RandomAffine(shift=2, flip=0.5, rotation=10, zoom=0.2),
    "nearest": RandomAffine(shift=2, fill="nearest"),
    "noise": GaussianNoise(0.1),
    "salt and pepper": SaltAndPepper(0.1),
    "speckle": Speckle(0.1),
    "poisson": PoissonNoise(),
    "erasing": RandomErasing(0.5),
    "mixup": MixUp(0.2),
    "cutmix": CutMix(1.0),
    "fmix": FMix(1.0),
    "all": in_turn(RandomAffine(flip=0.5), RandomErasing(0.5), MixUp(0.2), CutMix(1.0), GaussianNoise(0.1)),
    "none": in_turn(),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", EACH)
def test_a_change_takes_and_gives_a_batch(name: str, dtype: torch.dtype, garments: torch.Tensor) -> None:
    images, labels = garments.to(dtype), torch.arange(100) % 10
    before = images.clone(), labels.clone()
    first, again, other = (EACH[name](images, labels, batch_generator(CPU, s, 0, 0)) for s in (0, 0, 1))
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert first[0].shape == (100, 28, 28)
    assert first[0].min() >= 0
    assert first[0].max() <= 255.001
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0], other[0]) == (name == "none")
    if name in ("mixup", "cutmix", "fmix", "all"):
        assert first[1].shape == (100, 10)
        torch.testing.assert_close(first[1].sum(1), torch.ones(100))
    else:
        assert torch.equal(first[1], labels)


@pytest.mark.parametrize(
    "mixing",
    [MixUp(1.0), CutMix(1.0), FMix(1.0), in_turn(MixUp(1.0), MixUp(1.0))],
    ids=["mixup", "cutmix", "fmix", "mixup twice"],
)
def test_labels_hold_the_shares_that_the_images_hold(mixing: Change) -> None:
    """Image i is all of grey i: its pixels tell whose they are."""
    labels = torch.arange(10)
    images = (labels * 20).to(torch.uint8).view(10, 1, 1).expand(10, 28, 28)
    kept = []
    for batch in range(40):
        changed, shares = mixing(images, labels, batch_generator(CPU, 0, 0, batch))
        torch.testing.assert_close(changed.float().mean((1, 2)), shares @ (labels * 20.0), rtol=0, atol=1e-3)
        assert shares.min() >= 0
        kept.append(shares.amax(1).min().item())
    assert len(set(kept)) > 10, "another share for each batch"


def test_mixup_averages_with_one_weight_of_the_stated_distribution(garments: torch.Tensor) -> None:
    labels = torch.arange(100)
    kept = []
    for batch in range(400):
        _, shares = MixUp(0.2, classes=100)(garments, labels, batch_generator(CPU, 0, 0, batch))
        own = shares.diagonal()
        kept.append(own.min().item())
        assert ((own - kept[-1]).abs() < 1e-6).sum() > 90, "but for who is its own partner"
    weights = torch.tensor(kept)
    assert weights.mean().item() == pytest.approx(0.5, abs=0.07)
    assert weights.var().item() == pytest.approx(0.25 / 1.4, abs=0.02)  # of Beta(0.2, 0.2)


def test_cutmix_puts_one_rectangle_of_the_partner_at_the_same_place(garments: torch.Tensor) -> None:
    numbers = torch.arange(100.0).view(100, 1, 1).expand(100, 28, 28)
    changed, shares = CutMix(1.0, classes=100)(numbers, torch.arange(100), batch_generator(CPU, 0, 0, 3))
    foreign = (changed != numbers).any(0)
    rows, columns = foreign.any(1).nonzero(), foreign.any(0).nonzero()
    assert foreign[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    share = foreign.float().mean()
    assert 0 < share < 1
    torch.testing.assert_close(shares.diagonal().min(), 1 - share)


def test_fmix_puts_blots_of_the_partner_on_each_image() -> None:
    """What is foreign hangs together, in another shape for each image; its area is the batch's share."""
    numbers = torch.arange(100.0).view(100, 1, 1).expand(100, 28, 28)
    half = 1000.0  # of Beta(1000, 1000): shapes can be told
    changed, shares = FMix(half, classes=100)(numbers, torch.arange(100), batch_generator(CPU, 0, 0, 3))
    foreign = changed != numbers
    foreign = foreign[foreign.any(2).any(1)]  # without who is its own partner
    assert len(foreign) > 90
    areas = foreign.sum((1, 2))
    assert (areas == areas[0]).all()
    assert shares.diagonal().min().item() == pytest.approx(1 - areas[0].item() / 784)
    assert len({shape.numpy().tobytes() for shape in foreign}) == len(foreign)
    changes = (foreign[:, 1:] != foreign[:, :-1]).float().mean()
    assert changes < 0.1, "a row is nearly the one above: of independent pixels half would differ"
    whole, own = FMix(1.0, classes=100, probability=0)(
        numbers, torch.arange(100), batch_generator(CPU, 0, 0, 3)
    )
    assert torch.equal(whole, numbers)
    assert torch.equal(own, torch.eye(100))


@pytest.mark.parametrize("mixing", [MixUp, CutMix, FMix])
def test_some_batches_are_not_mixed(mixing: type[MixUp | CutMix | FMix], garments: torch.Tensor) -> None:
    labels, still = torch.arange(100) % 10, 0
    for batch in range(200):
        changed, shares = mixing(1.0, probability=0.3)(garments, labels, batch_generator(CPU, 0, 0, batch))
        if torch.equal(changed, garments.to(changed.dtype)):
            assert torch.equal(shares.argmax(1), labels)
            assert torch.equal(shares.amax(1), torch.ones(100))
            still += 1
    assert 0.6 < still / 200 < 0.8


def test_what_comes_in_from_outside_is_black_or_the_nearest_pixel() -> None:
    white = torch.full((50, 28, 28), 255, dtype=torch.uint8)
    labels = torch.zeros(50, dtype=torch.int64)
    black, _ = RandomAffine(shift=3, rotation=20)(white, labels, batch_generator(CPU, 0, 0, 0))
    assert black.min() == 0
    nearest, _ = RandomAffine(shift=3, rotation=20, fill="nearest")(
        white, labels, batch_generator(CPU, 0, 0, 0)
    )
    assert nearest.min() > 254.9


def test_no_two_batches_share_their_numbers() -> None:
    """Whatever of seed, epoch and batch is large, swapped, or next to another; the same in every process."""
    numbers = (0, 1, 2, 3, 10, 2**31, 2**32, 2**32 + 1, 2**64, 10**30)
    triples = list(product(numbers, repeat=3))
    streams = {batch_generator(CPU, *triple).initial_seed() for triple in triples}
    assert len(streams) == len(triples)
    first = [batch_generator(CPU, *triple).initial_seed() for triple in ((0, 0, 0), (1, 2, 3))]
    assert first == [5842066033578894005, 1540937338477698060]


def test_every_epoch_has_other_changes_and_the_same_images(garments: torch.Tensor) -> None:
    labels, epoch = torch.arange(100), [0]
    loader = BatchLoader(
        garments,
        labels,
        32,
        "unit",
        None,
        lambda: epoch[0],
        augmentations=[RandomAffine(flip=0.5)],
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
    overrides = ("model=mlp4", "augment.noise.std=50", "data.augment_validation=true")
    directory, metrics = trained(*overrides, "data.val_fraction=0.5", "trainer.max_epochs=2")
    again, same = trained(*overrides, "data.val_fraction=0.5", "trainer.max_epochs=2")
    assert (directory / "history.csv").read_text().splitlines()[1].split(",")[1:5] == (
        (again / "history.csv").read_text().splitlines()[1].split(",")[1:5]
    )
    assert metrics["val"] == same["val"]
    assert call(scripts.evaluate, directory, "--split", "val", "--folds", 2).returncode == 0
    evaluated = json.loads(Path(directory, "evaluation", "val", "metrics.json").read_text())
    assert evaluated["accuracy"] == metrics["val"]["accuracy"]
    unchanged, _ = trained(
        "model=mlp4", "augment.noise.std=50", "data.val_fraction=0.5", "trainer.max_epochs=2"
    )
    rows = [(path / "history.csv").read_text().splitlines()[1] for path in (directory, unchanged)]
    assert rows[0].split(",")[1:3] == rows[1].split(",")[1:3], "the same training"
    assert rows[0].split(",")[3:5] != rows[1].split(",")[3:5], "other validation images"


def test_salt_and_pepper_are_as_many_pixels_as_was_said() -> None:
    grey = torch.full((100, 28, 28), 100, dtype=torch.uint8)
    salted = change(SaltAndPepper(0.1), grey)
    for value in (0, 255):
        assert (salted == value).float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert set(salted.unique().tolist()) == {0, 100, 255}


def test_speckle_is_a_multiple_of_the_pixel() -> None:
    grey = torch.full((100, 28, 28), 100, dtype=torch.uint8)
    assert change(Speckle(0.1), grey).std().item() == pytest.approx(10, rel=0.03)
    assert not change(Speckle(0.1), torch.zeros_like(grey)).any()


def test_poisson_noise_has_the_pixel_for_its_mean_and_its_root_for_deviation() -> None:
    grey = torch.full((100, 28, 28), 100, dtype=torch.uint8)
    noisy = change(PoissonNoise(), grey)
    assert noisy.mean().item() == pytest.approx(100, rel=0.01)
    assert noisy.std().item() == pytest.approx((100 * 256 / 255) ** 0.5 * 255 / 256, rel=0.03)
    assert not change(PoissonNoise(), torch.zeros_like(grey)).any()
