"""What holds for any split, batch size, patch size and augmentation; hypothesis looks for exceptions."""

from itertools import chain

import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from fmnist_lit.data.augment import GaussianNoise, RandomAffine, RandomErasing, batch_generator
from fmnist_lit.data.loader import Batch, BatchLoader, Shard, TrainLoader, size_of
from fmnist_lit.data.split import stratified_split
from fmnist_lit.models.patching import patchify
from tests.fixtures import unpatchify

settings.register_profile("here", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("here")

SEEDS = some.integers(0, 2**32 - 1)
CPU = torch.device("cpu")


@given(
    labels=some.lists(some.integers(0, 9), min_size=1, max_size=300),
    fraction=some.floats(0, 0.99),
    seed=SEEDS,
)
def test_a_split_has_every_index_once_and_each_class_by_its_share(
    labels: list[int], fraction: float, seed: int
) -> None:
    of = torch.tensor(labels)
    kept, held_out = stratified_split(of, fraction, seed)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        assert int((of[held_out] == label).sum()) == round(labels.count(label) * fraction)
    again = stratified_split(of, fraction, seed)
    assert torch.equal(again[0], kept)


def numbered(
    count: int, batch_size: int, seed: int, epoch: int, rank: int = 0, ranks: int = 1
) -> BatchLoader:
    """Return a loader whose labels are the images' indices."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    return BatchLoader(
        images, torch.arange(count), batch_size, "none", seed, lambda: epoch, rank=rank, world_size=ranks
    )


@given(
    count=some.integers(1, 200),
    batch_size=some.integers(1, 210),
    size=some.integers(1, 9),
    seed=SEEDS,
    epoch=some.integers(0, 1000),
    done=some.integers(0, 300),
)
def test_a_loader_gives_every_index_once_an_epoch_wherever_it_was_resumed(
    count: int, batch_size: int, size: int, seed: int, epoch: int, done: int
) -> None:
    loader = numbered(count, batch_size, seed, epoch)
    batches = [labels.tolist() for _, labels in loader]
    assert len(batches) == len(loader)
    assert sorted(chain.from_iterable(batches)) == list(range(count))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}

    plain = TrainLoader(loader)
    assert [labels.tolist() for _, labels in plain] == batches
    groups = TrainLoader(loader, size)
    handed = [[labels.tolist() for _, labels in several] for several in whole_groups(groups)]
    assert list(chain.from_iterable(handed)) == batches
    for step, several in ((1, [[batch] for batch in batches]), (size, handed)):
        stopped, resumed = TrainLoader(loader, step), TrainLoader(loader, step)
        behind = done % len(stopped)
        iterator = iter(stopped)
        for _ in range(behind):
            next(iterator)
        resumed.load_state_dict(stopped.state_dict())
        for _ in range(2):  # what is left of this epoch, then a whole one
            rest = [[labels.tolist() for _, labels in group] for group in whole_groups(resumed)]
            assert rest == several[behind:]
            behind = 0
    assert sum(size_of(several) for several in groups) == count


def whole_groups(loader: TrainLoader) -> list[list[Batch]]:
    """Return what a loader hands over at once, single batches too."""
    return [list(given) if loader.steps_per_execution > 1 else [given] for given in loader]  # type: ignore[list-item]


@given(
    count=some.integers(1, 200),
    batch_size=some.integers(1, 210),
    ranks=some.integers(1, 9),
    seed=SEEDS,
    epoch=some.integers(0, 1000),
)
def test_ranks_together_get_the_batches_of_one_process(
    count: int, batch_size: int, ranks: int, seed: int, epoch: int
) -> None:
    whole = [labels.tolist() for _, labels in numbered(count, batch_size, seed, epoch)]
    shares = []
    for rank in range(ranks):
        parts = list(numbered(count, batch_size, seed, epoch, rank, ranks))
        if ranks > 1:  # each knows what it is a share of
            assert [part.batch_size for part in parts if isinstance(part, Shard)] == [len(b) for b in whole]
            assert [size_of(part) for part in parts] == [len(batch) for batch in whole]
        shares.append([part[1].tolist() for part in parts])
    for batch, *parts in zip(whole, *shares, strict=True):
        assert list(chain.from_iterable(parts)) == batch
        sizes = [len(part) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1


@given(n=some.integers(1, 5), size=some.sampled_from([1, 2, 4, 7, 14, 28]), seed=SEEDS)
def test_patches_can_be_put_together_again(n: int, size: int, seed: int) -> None:
    images = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    patches = patchify(images, size)
    assert patches.shape == (n, (28 // size) ** 2, size * size)
    assert torch.equal(unpatchify(patches), images)


@given(
    affine=some.builds(
        RandomAffine,
        shift=some.integers(0, 27),
        flip=some.floats(0, 1),
        rotation=some.floats(0, 180),
        zoom=some.floats(0, 0.99),
        fill=some.sampled_from(["black", "nearest"]),
    ),
    noise=some.builds(GaussianNoise, std=some.floats(0, 2)),
    erasing=some.builds(RandomErasing, probability=some.floats(0, 1)),
    n=some.integers(1, 20),
    seed=SEEDS,
    epoch=some.integers(0, 1000),
    batch=some.integers(0, 10_000),
)
def test_augmentation_keeps_shape_and_range_and_repeats_itself(
    affine: RandomAffine,
    noise: GaussianNoise,
    erasing: RandomErasing,
    n: int,
    seed: int,
    epoch: int,
    batch: int,
) -> None:
    def change() -> torch.Tensor:
        changed, labels = images, torch.arange(n)
        generator = batch_generator(CPU, seed, epoch, batch)
        for augmentation in (affine, noise, erasing):
            changed, labels = augmentation(changed, labels, generator)
        return changed

    images = torch.randint(
        0, 256, (n, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    before = images.clone()
    changed = change()
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.isfinite().all()
    assert changed.min() >= 0
    assert changed.max() <= 255.01  # an interpolation's last digit
    assert torch.equal(change(), changed)
    assert torch.equal(images, before)
