"""The split, the batches, the drawn images, and the sources of the official files."""

import gzip
import hashlib
import multiprocessing
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import FashionMNIST

import scripts.data
from fmnist_lit.data import sources
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.dataset import CLASSES, PIXEL_MEAN, PIXEL_STD, Images
from fmnist_lit.data.loader import BatchLoader, TrainLoader, epoch_order, normalize
from fmnist_lit.data.split import stratified_split
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.errors import UsageError, UserError
from tests.fixtures import call

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
        "log_test_every_epoch": False,
        "train_subset": None,
        "seed": 0,
    }
    data = DataModule(**settings | changes)  # type: ignore[arg-type]
    data.setup()
    return data


def test_parts_do_not_overlap_and_no_image_is_lost() -> None:
    data = module()
    assert {split: len(labels) for split, (_, labels) in data.splits.items()} == {
        "train": 80,
        "val": 20,
        "test": 50,
    }
    rows = {bytes(image.numpy().tobytes()) for part in ("train", "val") for image in data.splits[part][0]}
    assert rows == {bytes(image.numpy().tobytes()) for image in data.images.train}


def test_no_validation_data_and_watching_the_test_set() -> None:
    assert list(module(val_fraction=0.0).val_dataloader()) == []
    assert list(module(log_test_every_epoch=True).val_dataloader()) == ["val", "test"]
    assert list(module(val_fraction=0.0, log_test_every_epoch=True).val_dataloader()) == ["test"]
    assert list(module().test_dataloader()) == ["train", "val", "test"]


def test_limit_keeps_equal_classes() -> None:
    labels = module(train_subset=30).splits["train"][1]
    assert labels.bincount().tolist() == [3] * 10
    with pytest.raises(UsageError, match="only 80 training images"):
        module(train_subset=90)


def test_a_split_that_leaves_a_class_empty_is_refused() -> None:
    with pytest.raises(UsageError, match=r"data\.val_fraction=0\.01"):
        module(val_fraction=0.01)
    with pytest.raises(UsageError, match=r"data\.folds=11 leaves .* 0 validation images"):
        module(folds=11, fold=10)


def test_folds_hold_every_training_image_out_once() -> None:
    held_out = []
    for fold in range(4):
        splits = module(folds=4, fold=fold).splits
        assert len(splits["train"][1]) + len(splits["val"][1]) == 100
        assert max(splits["val"][1].bincount()) - min(splits["val"][1].bincount()) <= 1
        held_out += [image.numpy().tobytes() for image in splits["val"][0]]
    assert len(held_out) == len(set(held_out)) == 100
    with pytest.raises(UsageError, match=r"data\.fold=4: of data\.folds=4 there are 0 to 3"):
        module(folds=4, fold=4)


def test_a_subset_has_equal_classes_however_many_there_are() -> None:
    drawn = drawn_garments(train=100, test=50, seed=0)
    three = replace(
        drawn,
        train_labels=drawn.train_labels % 3,
        test_labels=drawn.test_labels % 3,
        classes=("a", "b", "c"),
    )
    assert module(images=three, train_subset=30).splits["train"][1].bincount().tolist() == [10, 10, 10]
    with pytest.raises(UsageError, match="train_subset=40: it must be a multiple of 3, the classes"):
        module(images=three, train_subset=40)


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


def small_files(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> dict[str, bytes]:
    """Make files the official ones, and no source but a named folder reachable."""
    monkeypatch.setattr(sources, "MD5", {n: hashlib.md5(c).hexdigest() for n, c in files.items()})
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", Path("/dev/null/debian"))
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    monkeypatch.setenv("PATH", "")  # no apt-get
    return files


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    return small_files(monkeypatch, stand_ins())


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


def spoil(kind: str, folder: Path, files: dict[str, bytes]) -> Path:
    """Make a folder that is not what it should be, and return the path to name."""
    label, image = "t10k-labels-idx1-ubyte", "train-images-idx3-ubyte"
    if kind in ("missing", "mistyped"):
        return fill(folder, files) / "typo" if kind == "mistyped" else folder
    if kind == "a file":
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_bytes(b"")
        return folder
    zipped = kind.startswith("gzip")
    fill(folder, {} if kind == "empty" else files, compressed=zipped)
    packed = gzip.compress(files[label])
    match kind:
        case "another data set":  # whole IDX files of the same shapes
            fill(folder, {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in files.items()})
        case "one other file":
            (folder / image).write_bytes(files[image][:-1] + b"x")
        case "two of four":
            (folder / label).unlink()
            (folder / image).unlink()
        case "truncated":
            (folder / label).write_bytes(files[label][:-1])
        case "an empty file":
            (folder / label).write_bytes(b"")
        case "a folder of that name":
            (folder / label).unlink()
            (folder / label).mkdir()
        case "a link to nowhere":
            (folder / label).unlink()
            (folder / label).symlink_to("nowhere")
        case "gzip, truncated" | "gzip, altered" | "gzip of more" | "gzip, a page":
            damaged = {
                "gzip, truncated": packed[:-9],
                "gzip, altered": packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
                "gzip of more": gzip.compress(files[label] + b"x"),
                "gzip, a page": b"<html>not found</html>",
            }
            (folder / f"{label}.gz").write_bytes(damaged[kind])
    return folder


IN_A_FILE = ("one other file", "truncated", "an empty file", "a folder of that name", "a link to nowhere")
IN_GZIP = ("gzip, truncated", "gzip, altered", "gzip of more", "gzip, a page")
FAULTS = ("missing", "mistyped", "a file", "empty", "another data set", "two of four", *IN_A_FILE, *IN_GZIP)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.parametrize("whole", [False, True], ids=["no data yet", "data whole"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_named_source_is_used_or_refused(
    fault: str, whole: bool, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", fill(tmp_path / "debian", files))  # could step in
    named, data = spoil(fault, tmp_path / "named", files), tmp_path / "data"
    if whole:
        fill(data / sources.LAYOUT, files)
    before = contents(tmp_path)
    with pytest.raises(UsageError) as failure:
        sources.fashion_mnist(data, named)
    assert f"data.images.source={named}: " in str(failure.value)
    assert len(str(failure.value).splitlines()) == 1
    assert contents(tmp_path) == before
    answer = call(scripts.data, data, "--source", named)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert str(named) in answer.stderr


@pytest.mark.parametrize("named", [False, True], ids=["from anywhere", "from a named folder"])
@pytest.mark.parametrize("fault", ["another data set", *IN_A_FILE])
def test_a_users_files_are_not_overwritten(
    fault: str, named: bool, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", fill(tmp_path / "debian", files))
    raw = spoil(fault, tmp_path / "data" / sources.LAYOUT, files)
    before = contents(raw)
    with pytest.raises(UserError) as failure:
        sources.fashion_mnist(tmp_path / "data", tmp_path / "debian" if named else None)
    for part in (str(raw), "data.images.folder="):
        assert part in str(failure.value)
    assert contents(raw) == before
    assert fault == "a link to nowhere" or f"Remove {raw}/t" in str(failure.value)


def test_an_argument_that_is_empty_names_no_other_folder(files: dict[str, bytes], tmp_path: Path) -> None:
    for arguments in ([tmp_path, "--source", ""], [""]):
        answer = call(scripts.data, *arguments)
        assert answer.returncode == 2
        assert "not empty" in answer.stderr


def test_what_is_missing_is_added(files: dict[str, bytes], tmp_path: Path) -> None:
    raw = fill(tmp_path / "data" / sources.LAYOUT, dict(list(files.items())[:1]))
    answer = call(
        scripts.data, tmp_path / "data", "--source", fill(tmp_path / "named", files, compressed=True)
    )
    assert answer.returncode == 0, answer.stderr
    assert "20 training, 10 test images" in answer.stdout
    assert {path.name for path in raw.iterdir()} == {*files, ".lock"}


def test_each_source_that_was_tried_is_told(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = fill(tmp_path / "served", files, compressed=True)
    (served / "t10k-labels-idx1-ubyte.gz").unlink()
    closed, mirror = "http://127.0.0.1:9/", f"file://{served}/"
    monkeypatch.setattr(FashionMNIST, "mirrors", [closed, mirror])
    caplog.set_level("INFO")
    with pytest.raises(UserError) as failure:
        sources.fashion_mnist(tmp_path / "data")
    for text in (caplog.text, str(failure.value)):
        assert "/dev/null/debian: no such folder" in text
        assert f"{closed}: train-images-idx3-ubyte.gz: " in text
        assert f"{mirror}: t10k-labels-idx1-ubyte.gz: " in text
        assert "Debian's package dataset-fashion-mnist: this system has no apt-get" in text
    assert f"From {mirror}: 3 files." in caplog.text
    for remedy in ("data.images.source=", "data=synthetic"):
        assert remedy in str(failure.value)

    fill(served, files, compressed=True)
    caplog.clear()
    sources.fashion_mnist(tmp_path / "data")
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "Looking for 1 of 4 files of Fashion-MNIST ..."
    assert [line.partition(":")[0] for line in told[1:-1]] == ["Tried /dev/null/debian", "Tried http"]
    assert told[-1] == f"From {mirror}: 1 files."


@pytest.mark.skipif(not shutil.which("apt-get"), reason="Debian's package needs Debian's tools")
def test_debians_package_is_fetched_and_unpacked(
    files: dict[str, bytes], server: tuple[str, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    address, served = server
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", Path("/usr/share/not-installed"))
    tree = tmp_path / "package"
    fill(tree / "usr/share/not-installed", files, compressed=True)
    (tree / "DEBIAN").mkdir()
    about = "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x.x>\n"
    about += "Description: x\n"
    (tree / "DEBIAN" / "control").write_text(about)
    package = served / "dataset-fashion-mnist_1_all.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", tree, package]
    subprocess.run(build, check=True, capture_output=True)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    place = f"Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    (served / "Packages").write_text(about + place)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] {address} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    assert len(sources.fashion_mnist(tmp_path / "data").train) == 20
    (served / package.name).write_bytes(bytes(package.stat().st_size))
    with pytest.raises(UserError, match="Debian's package dataset-fashion-mnist: "):
        sources.fashion_mnist(tmp_path / "other")


def test_sources_are_tried_in_order() -> None:
    titles = [title for title, _ in sources.sources()]
    assert titles[0] == "/usr/share/datasets/fashion-mnist"
    assert titles[1:-1] == FashionMNIST.mirrors
    assert "dataset-fashion-mnist" in titles[-1]


def test_a_file_in_the_way_is_named(files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"data\.images\.folder="):
        sources.fashion_mnist(str(tmp_path / "data"))


def obtain_in_a_process(folder: str, named: str) -> int:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_files(monkeypatch, stand_ins())
        return len(sources.fashion_mnist(folder, named).train)


def test_runs_that_start_at_once_both_get_the_files(files: dict[str, bytes], tmp_path: Path) -> None:
    named = fill(tmp_path / "named", files)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        arguments = [(str(tmp_path / "data"), str(named))] * 4
        assert pool.starmap(obtain_in_a_process, arguments) == [20] * 4
    left = {path.name for path in (tmp_path / "data" / "FashionMNIST" / "raw").iterdir()}
    assert left == {*files, ".lock"}


def real_images() -> Images:
    """Read the folder that the environment names, else the first that holds the files."""
    named = os.environ.get("FMNIST_SOURCE")
    for folder in [named] if named else ["../shared/data/fashion-mnist", "data"]:
        try:
            return sources.stored(Path(folder))
        except sources.Unavailable:
            assert folder != named, f"FMNIST_SOURCE={named} does not hold Fashion-MNIST"
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


@pytest.mark.parametrize("batch_size", [32, 7, 2000])
def test_groups_hand_over_every_batch_in_order(batch_size: int) -> None:
    images, labels = torch.randint(0, 256, (1000, 28, 28), dtype=torch.uint8), torch.arange(1000)
    loader = BatchLoader(images, labels, batch_size, "unit", shuffle_seed=3)
    groups = TrainLoader(loader, steps_per_execution=4)
    handed = [list(group) for group in groups]
    assert len(handed) == len(groups)
    assert {len(group) for group in handed[:-1]} <= {4}
    batches = [batch for group in handed for batch in group]
    assert len(batches) == len(loader)
    for given in (batches, TrainLoader(loader)):
        for (pixels, numbers), (expected, expected_numbers) in zip(given, loader, strict=True):
            assert torch.equal(pixels, expected)
            assert torch.equal(numbers, expected_numbers)
