"""The split, the batches, the drawn images, and the sources of the official files."""

import gzip
import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest
import torch

from fmnist_lit.data import sources
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.images import CLASSES, PIXEL_MEAN, PIXEL_STD, Images
from fmnist_lit.data.loader import BatchGroups, BatchLoader, epoch_order, normalize
from fmnist_lit.data.split import stratified_split
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.errors import UsageError, UserError

LABELS = torch.arange(60_000) % 10


def test_split_is_stratified_to_the_image() -> None:
    train, val = stratified_split(LABELS, 0.2, seed=0)
    assert LABELS[train].bincount().tolist() == [4_800] * 10
    assert LABELS[val].bincount().tolist() == [1_200] * 10
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))


def test_split_depends_on_its_seed_alone() -> None:
    first = stratified_split(LABELS, 0.2, seed=0)[1]
    torch.manual_seed(5)
    assert torch.equal(first, stratified_split(LABELS, 0.2, seed=0)[1])
    assert not torch.equal(first, stratified_split(LABELS, 0.2, seed=1)[1])


def module(**changes: object) -> DataModule:
    settings = {
        "images": drawn_garments(train=100, test=50, seed=0),
        "batch_size": 32,
        "eval_batch_size": 20,
        "val_fraction": 0.2,
        "split_seed": 0,
        "normalization": "unit",
        "watch_test": False,
        "limit": None,
        "seed": 0,
    }
    data = DataModule(**settings | changes)  # type: ignore[arg-type]
    data.setup()
    return data


def test_parts_do_not_overlap_and_no_image_is_lost() -> None:
    data = module()
    assert {part: len(labels) for part, (_, labels) in data.parts.items()} == {
        "train": 80,
        "val": 20,
        "test": 50,
    }
    rows = {bytes(image.numpy().tobytes()) for part in ("train", "val") for image in data.parts[part][0]}
    assert rows == {bytes(image.numpy().tobytes()) for image in data.images.train}


def test_no_validation_data_and_watching_the_test_set() -> None:
    assert list(module(val_fraction=0.0).val_dataloader()) == []
    assert list(module(watch_test=True).val_dataloader()) == ["val", "test"]
    assert list(module(val_fraction=0.0, watch_test=True).val_dataloader()) == ["test"]
    assert list(module().test_dataloader()) == ["train", "val", "test"]


def test_limit_keeps_equal_classes() -> None:
    labels = module(limit=30).parts["train"][1]
    assert labels.bincount().tolist() == [3] * 10
    with pytest.raises(UsageError, match="only 80 training images"):
        module(limit=90)


def test_a_split_that_leaves_a_class_empty_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.val_fraction=0\.01"):
        module(val_fraction=0.01)


def loader(count: int, batch_size: int, seed: int | None, epoch: int = 0) -> BatchLoader:
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    return BatchLoader(images, torch.arange(count), batch_size, "none", seed, lambda: epoch)


def seen(batches: BatchLoader) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 32, 100, 101])
def test_every_image_comes_once_an_epoch(batch_size: int) -> None:
    shuffled = loader(100, batch_size, seed=3)
    assert sorted(seen(shuffled)) == list(range(100))
    assert seen(loader(100, batch_size, seed=None)) == list(range(100))
    assert len(list(shuffled)) == len(shuffled) == -(-100 // batch_size)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(0)
    first = seen(loader(100, 7, seed=3, epoch=2))
    torch.manual_seed(1)
    assert seen(loader(100, 32, seed=3, epoch=2)) == first
    orders = {tuple(epoch_order(100, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_images_stay_with_their_labels() -> None:
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28)
    for batch, labels in BatchLoader(images, torch.arange(100), 32, "none", shuffle_seed=0):
        assert torch.equal(batch[:, 0, 5, 5].long(), labels)


def test_normalization() -> None:
    images = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8)
    unit = images.unsqueeze(1).double() / 255
    for name, expected in (
        ("standard", (unit - PIXEL_MEAN) / PIXEL_STD),
        ("unit", unit),
        ("none", unit * 255),
    ):
        batch = normalize(images, name)
        assert batch.dtype == torch.float32
        torch.testing.assert_close(batch.double(), expected, rtol=1e-6, atol=1e-6)


def test_drawn_images_are_balanced_varied_and_repeatable() -> None:
    drawn = drawn_garments(train=200, test=100, seed=0)
    assert drawn.train_labels.bincount().tolist() == [20] * 10
    assert drawn.test_labels.bincount().tolist() == [10] * 10
    assert len({image.numpy().tobytes() for image in torch.cat([drawn.train, drawn.test])}) == 300
    again = drawn_garments(train=200, test=100, seed=0)
    assert torch.equal(again.train, drawn.train)
    assert not torch.equal(drawn_garments(train=200, test=100, seed=1).train, drawn.train)


# --- sources, with four small stand-ins for the official files ---------------------------------------------


def idx(values: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def stand_ins() -> dict[str, bytes]:
    drawn = drawn_garments(train=20, test=10, seed=0)
    parts = (drawn.train, drawn.train_labels, drawn.test, drawn.test_labels)
    return {name: idx(values) for name, values in zip(sources.MD5, parts, strict=True)}


def small_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make the stand-ins the official files, and no source but a named folder reachable."""
    files = stand_ins()
    monkeypatch.setattr(sources, "MD5", {n: hashlib.md5(c).hexdigest() for n, c in files.items()})
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", Path("/nowhere"))
    monkeypatch.setattr(sources, "torchvision_mirrors", lambda: [])
    monkeypatch.setenv("PATH", "")  # no apt-get
    return files


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    return small_files(monkeypatch)


def fill(folder: Path, files: dict[str, bytes], compressed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + ".gz" * compressed)).write_bytes(gzip.compress(content) if compressed else content)
    return folder


def test_checksums_are_those_of_the_official_files() -> None:
    # Zalando's release as Debian's dataset-fashion-mnist ships it, uncompressed.
    assert sources.MD5 == {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


@pytest.mark.parametrize("compressed", [False, True])
def test_a_named_folder_is_copied_into_the_data_folder(
    files: dict[str, bytes], tmp_path: Path, compressed: bool
) -> None:
    named = fill(tmp_path / "named", files, compressed)
    images = sources.fashion_mnist(str(tmp_path / "data"), str(named))
    drawn = drawn_garments(train=20, test=10, seed=0)
    assert torch.equal(images.train, drawn.train)
    assert torch.equal(images.test_labels, drawn.test_labels)
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir() if path.name != ".lock"} == files
    sources.fashion_mnist(str(tmp_path / "data"))  # and is not needed again


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty"])
def test_a_damaged_file_is_replaced(
    files: dict[str, bytes], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = fill(tmp_path / "data" / "FashionMNIST" / "raw", files)
    whole = files["train-images-idx3-ubyte"]
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    damaged = {"truncated": whole[:-100], "altered": altered, "empty": b""}[damage]
    (raw / "train-images-idx3-ubyte").write_bytes(damaged)
    named = fill(tmp_path / "named", files, compressed=True)
    sources.fashion_mnist(str(tmp_path / "data"), str(named))
    assert (raw / "train-images-idx3-ubyte").read_bytes() == whole
    assert "train-images-idx3-ubyte has md5" in caplog.text


@pytest.mark.parametrize("damage", ["altered", "truncated gzip", "no gzip"])
def test_a_damaged_source_is_passed_over(files: dict[str, bytes], tmp_path: Path, damage: str) -> None:
    named = fill(tmp_path / "named", files, compressed=True)
    path = named / "t10k-labels-idx1-ubyte.gz"
    content = {
        "altered": gzip.compress(files["t10k-labels-idx1-ubyte"] + b"x"),
        "truncated gzip": path.read_bytes()[:-9],
        "no gzip": b"<html>not found</html>",
    }[damage]
    path.write_bytes(content)
    with pytest.raises(UserError) as failure:
        sources.fashion_mnist(str(tmp_path / "data"), str(named))
    assert "t10k-labels-idx1-ubyte" in str(failure.value)
    assert not (tmp_path / "data" / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").exists()


def test_without_any_source_one_message_says_what_was_tried(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(UserError) as failure:
        sources.fashion_mnist(str(tmp_path / "data"), str(tmp_path / "named"))
    message = str(failure.value)
    for part in (str(tmp_path / "named"), "/nowhere", "apt-get", "data.images.source=", "data=synthetic"):
        assert part in message


def test_sources_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [title for title, _ in sources.sources(Path("/mine"))]
    assert titles[:2] == ["/mine", "/usr/share/datasets/fashion-mnist"]
    assert titles[2:-1] == sources.torchvision_mirrors()
    assert "dataset-fashion-mnist" in titles[-1]


def test_a_file_in_the_way_is_named(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data\.images\.folder="):
        sources.fashion_mnist(str(tmp_path / "data"))


def obtain_in_a_process(folder: str, named: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_files(monkeypatch)
        return len(sources.fashion_mnist(folder, named).train)


def test_runs_that_start_at_once_both_get_the_files(files: dict[str, bytes], tmp_path: Path) -> None:
    named = fill(tmp_path / "named", files)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        arguments = [(str(tmp_path / "data"), str(named))] * 4
        assert pool.starmap(obtain_in_a_process, arguments) == [20] * 4
    left = {path.name for path in (tmp_path / "data" / "FashionMNIST" / "raw").iterdir()}
    assert left == {*files, ".lock"}


def real_images() -> Images:
    for folder in (os.environ.get("FMNIST_SOURCE"), "../shared/data/fashion-mnist", "data/FashionMNIST/raw"):
        if folder and all(
            (Path(folder) / n).exists() or (Path(folder) / (n + ".gz")).exists() for n in sources.MD5
        ):
            found = sources.from_folder(Path(folder), sources.MD5)
            return Images(*(sources.parse_idx(sources.verified(name, content)) for name, content in found))
    pytest.skip("Fashion-MNIST is not on this machine: make data")


def test_facts_of_the_real_images() -> None:
    images = real_images()
    assert (len(images.train), len(images.test), len(CLASSES)) == (60_000, 10_000, 10)
    assert images.train_labels.bincount().tolist() == [6_000] * 10
    assert images.test_labels.bincount().tolist() == [1_000] * 10
    pixels = images.train.double() / 255
    assert round(pixels.mean().item(), 4) == PIXEL_MEAN
    assert round(pixels.std().item(), 4) == PIXEL_STD
    train, val = stratified_split(images.train_labels, 0.2, seed=0)
    assert images.train_labels[val].bincount().tolist() == [1_200] * 10
    assert len(train) == 48_000


@pytest.mark.parametrize(("batch_size", "limit"), [(32, None), (7, None), (32, 3), (100, 1), (2000, None)])
def test_groups_hand_over_every_batch_in_order(batch_size: int, limit: int | None) -> None:
    images, labels = torch.randint(0, 256, (1000, 28, 28), dtype=torch.uint8), torch.arange(1000)
    loader = BatchLoader(images, labels, batch_size, "unit", shuffle_seed=3, limit=limit)
    groups = BatchGroups(loader, size=4)
    handed = [list(group) for group in groups]
    assert len(handed) == len(groups)
    assert {len(group) for group in handed[:-1]} <= {4}
    batches = [batch for group in handed for batch in group]
    assert len(batches) == len(loader)
    for (pixels, numbers), (expected, expected_numbers) in zip(batches, loader, strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(numbers, expected_numbers)
