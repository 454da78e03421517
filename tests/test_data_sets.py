"""Data sets of IDX files: a folder of one's own, MNIST and its kin; models with more or fewer classes."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torchvision import datasets

import scripts.data
import scripts.images
from fmnist_lit.data import idx as idx_module
from fmnist_lit.data import sources
from fmnist_lit.data.idx import FILES, idx, kmnist, mnist
from fmnist_lit.data.split import limited
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.run import build_classifier
from tests.fixtures import SMALL, answer_in_process, call

TRAIN, LABELS = FILES[:2]
FORMS = [("", False), (".gz", False), ("", True), (".gz", True)]
NAMED = ["data=idx", "data.images.folder=FOLDER"]
SMALL_IDX = [item for item in SMALL if not item.startswith("data")]


def packed(values: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


def small_files(classes: int = 3, train: int = 60, test: int = 30) -> dict[str, bytes]:
    """Four files of images with a bright column for each class."""
    contents = []
    for count in (train, test):
        labels = torch.arange(count) % classes
        images = torch.randint(0, 60, (count, 28, 28), generator=torch.Generator().manual_seed(count))
        images[torch.arange(count), :, 2 * labels] = 250
        contents += [packed(images), packed(labels)]
    return dict(zip(FILES, contents, strict=True))


def lay(folder: Path, files: dict[str, bytes], suffix: str = "", dot: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        name = name.replace("-idx", ".idx") if dot else name
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


@pytest.mark.parametrize("layout", ["", "raw", "EMNIST/raw"])
@pytest.mark.parametrize(("suffix", "dot"), FORMS)
def test_a_folder_of_four_files_is_a_data_set(tmp_path: Path, layout: str, suffix: str, dot: bool) -> None:
    lay(tmp_path / layout, small_files(), suffix, dot)
    images = idx(str(tmp_path))
    assert images.classes == ("0", "1", "2")
    assert (images.train.shape, images.test.shape) == ((60, 28, 28), (30, 28, 28))
    assert images.test_labels.tolist() == [0, 1, 2] * 10
    pixels = images.train.double() / 255
    assert images.statistics == pytest.approx(
        (pixels.mean().item(), pixels.std(correction=0).item()), abs=1e-12
    )
    assert idx(str(tmp_path), ["left", "middle", "right"]).classes == ("left", "middle", "right")
    assert len(idx(str(tmp_path), list("abcd")).classes) == 4


def of(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)  # type: ignore[return-value]


def changed(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return of(name, change(small_files()[name]))


def bomb(size: int) -> bytes:
    return gzip.compress(
        bytes([0, 0, 8, 3]) + size.to_bytes(4, "big") + bytes([0, 0, 0, 28] * 2) + bytes(2**24)
    )


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no such folder"),
    "nothing in it": (lambda folder: [file.unlink() for file in folder.iterdir()], f"neither {TRAIN} nor"),
    "images missing": (lambda folder: (folder / TRAIN).unlink(), f"holds neither {TRAIN} nor {TRAIN}.gz"),
    "labels missing": (lambda folder: (folder / FILES[3]).unlink(), f"holds neither {FILES[3]} nor"),
    "a link to nowhere": (
        lambda folder: [(folder / LABELS).unlink(), (folder / LABELS).symlink_to("nowhere")],
        f"{LABELS} cannot be read: No such file",
    ),
    "a folder": (lambda folder: [(folder / LABELS).unlink(), (folder / LABELS).mkdir()], "Is a directory"),
    "empty": (of(TRAIN, b""), "is no IDX file"),
    "a page": (of(TRAIN, b"<html>not found</html>"), "is no IDX file"),
    "header cut": (changed(TRAIN, lambda content: content[:9]), "header is cut off"),
    "signed": (changed(TRAIN, lambda content: b"\0\0\x09\3" + content[4:]), "other numbers than"),
    "floats": (changed(TRAIN, lambda content: b"\0\0\x0d\3" + content[4:]), "other numbers than"),
    "labels for images": (of(TRAIN, small_files()[LABELS]), "has 1 dimensions"),
    "images for labels": (of(LABELS, small_files()[TRAIN]), "has 3 dimensions"),
    "truncated": (changed(TRAIN, lambda content: content[:-1]), "claims 47,040 bytes, and it holds 47,039"),
    "longer": (changed(TRAIN, lambda content: content + b"x"), "claims 47,040 bytes, and it holds more"),
    "labels truncated": (changed(LABELS, lambda content: content[:-1]), "claims 60 bytes, and it holds 59"),
    "32x32": (of(TRAIN, packed(torch.zeros(60, 32, 32))), "images of 32x32"),
    "28x27": (of(TRAIN, packed(torch.zeros(60, 28, 27))), "images of 28x27"),
    "no images": (of(TRAIN, packed(torch.zeros(0, 28, 28))), "claims 0 images"),
    "other count": (of(LABELS, packed(torch.arange(59) % 3)), "59 labels for 60 images"),
    "one class": (of(LABELS, packed(torch.zeros(60))), "two classes or more"),
    "a class of the test set alone": (of(FILES[3], packed(torch.full((30,), 7))), "a label 7, and"),
    "all alike": (of(TRAIN, packed(torch.full((60, 28, 28), 9))), "training images are alike"),
    "gzip, truncated": (changed(TRAIN, lambda content: gzip.compress(content)[:-9]), "cannot be read"),
    "gzip, altered": (
        changed(LABELS, lambda content: gzip.compress(content)[:-6] + b"abcdef"),
        "cannot be read: CRC check failed",
    ),
    "gzip bomb": (of(TRAIN, bomb(60)), "holds more"),
    "gzip bomb that says so": (of(TRAIN, bomb(2**32 - 1)), "claims 4,294,967,295 images"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_folder_is_named(fault: str, tmp_path: Path) -> None:
    folder = lay(tmp_path / "named", small_files())
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(UsageError) as failure:
        idx(str(folder))
    assert message in str(failure.value)
    assert str(folder) in str(failure.value)
    assert len(str(failure.value).splitlines()) == 1


def test_several_data_sets_below_a_folder_are_named(tmp_path: Path) -> None:
    for name in "AB":
        lay(tmp_path / name / "raw", small_files())
    with pytest.raises(UsageError, match=f"Name one: {tmp_path}/A/raw, {tmp_path}/B/raw"):
        idx(str(tmp_path))
    assert len(idx(str(tmp_path / "B")).train) == 60


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["a", "b"], "label 2, and the names"), (["a", "b", "a"], "a name of its own"), (["a"], "two classes")],
)
def test_names_must_fit_the_labels(classes: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        idx(str(lay(tmp_path, small_files())), classes)


# --- on the command line -----------------------------------------------------------------------------------


def test_a_folder_trains_with_as_many_outputs_as_classes(tmp_path: Path) -> None:
    lay(tmp_path / "stripes", small_files(classes=13, train=260, test=130), ".gz")
    run = tmp_path / "run"
    overrides = ["data=idx", f"data.images.folder={tmp_path / 'stripes'}", "model=cnn_a", "metrics=macro_f1"]
    overrides += ["augment=mixup", "trainer.max_epochs=1", "logger=tensorboard", f"hydra.run.dir={run}"]
    status, _, error = answer_in_process([*SMALL_IDX, *overrides])
    assert (status in (0, None), error) == (True, "")
    weights = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert weights["state_dict"]["model.classifier.0.weight"].shape == (13, 196)
    assert weights["classes"] == list(map(str, range(13)))
    assert json.loads((run / "metrics.json").read_text())["classes"] == weights["classes"]
    assert "macro_f1" in (run / "metrics.json").read_text()


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        ([*NAMED, "model=mlp4", "+model.classes=10"], ["10 outputs", "13 classes"]),
        (["data=idx"], ["data.images.folder"]),
        (["data=idx", "data.images.folder=FOLDER/typo"], ["FOLDER/typo: there is no such folder"]),
        ([*NAMED, "data.images.classes=[a,b]"], ["label 12", "data.images.classes"]),
        ([*NAMED, "data.images.classes=3"], ["data.images.classes=3"]),
        ([*NAMED, "+data.images.fetch=true"], ["data.images.fetch: no such key"]),
        (["data=mnits"], ["Did you mean mnist?"]),
    ],
    ids=["fewer outputs", "no folder", "mistyped", "fewer names", "no list", "given", "no such option"],
)
def test_what_cannot_train_is_refused_before_a_run_begins(
    overrides: list[str], messages: list[str], tmp_path: Path
) -> None:
    folder = lay(tmp_path / "stripes", small_files(classes=13, train=260, test=130))
    named = [item.replace("FOLDER", str(folder)) for item in overrides]
    status, _, error = answer_in_process([*SMALL_IDX, *named, f"hydra.run.dir={tmp_path / 'run'}"])
    assert status == 2
    for message in messages:
        assert message.replace("FOLDER", str(folder)) in error
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "model",
    [
        *("mlp4", "cnn_a", "cnn_b", "cnn_c", "lenet", "vgg11", "block_cnn"),
        *("residual", "separable", "wide_resnet"),
    ],
)
@pytest.mark.parametrize("classes", [2, 26])
def test_every_model_has_an_output_for_each_class(
    model: str, classes: int, composed: Callable[..., dict[str, Any]]
) -> None:
    small = ["model.filters=2"] if model == "block_cnn" else []
    classifier = build_classifier(composed(f"model={model}", *small), list(map(str, range(classes))))
    assert classifier.outputs == classes
    assert classifier.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, classes)


def test_a_subset_has_equal_classes_however_many_there_are() -> None:
    labels = torch.arange(60) % 3
    chosen = limited(torch.arange(60), labels, 30)
    assert labels[chosen].bincount().tolist() == [10, 10, 10]
    with pytest.raises(UsageError, match="a multiple of 3"):
        limited(torch.arange(60), labels, 20)
    uneven = (torch.arange(60) > 4).long()
    with pytest.raises(UsageError, match="only 5 training images"):
        limited(torch.arange(60), uneven, 20)


# --- MNIST and its kin, and mirrors ------------------------------------------------------------------------

READERS = {"MNIST": mnist, "KMNIST": kmnist}


def resources(folder: Path) -> list[tuple[str, str]]:
    return [(f"{name}.gz", hashlib.md5((folder / f"{name}.gz").read_bytes()).hexdigest()) for name in FILES]


@pytest.mark.parametrize("name", READERS)
def test_torchvision_fetches_what_is_missing(
    name: str, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    lay(served, small_files(10), ".gz")
    monkeypatch.setattr(getattr(datasets, name), "mirrors", ["http://127.0.0.1:9/", address])
    monkeypatch.setattr(getattr(datasets, name), "resources", resources(served))
    raw = lay(tmp_path / "data" / name / "raw", {TRAIN: small_files(10)[TRAIN]})
    images = READERS[name](str(tmp_path / "data"))
    assert len(images.classes) == 10
    assert images.train_labels.tolist() == list(range(10)) * 6
    assert {file.name for file in raw.iterdir()} == {*FILES, ".lock"}
    monkeypatch.setattr(getattr(datasets, name), "mirrors", [])
    assert torch.equal(READERS[name](str(tmp_path / "data")).train, images.train)


@pytest.mark.parametrize("fault", ["no mirror", "one file missing", "other bytes", "no gzip"])
def test_a_download_that_fails_leaves_nothing(
    fault: str, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    lay(served, small_files(10), ".gz")
    if fault == "no gzip":
        (served / f"{FILES[2]}.gz").write_bytes(b"<html>")
    monkeypatch.setattr(datasets.MNIST, "resources", resources(served))
    if fault == "one file missing":
        (served / f"{FILES[2]}.gz").unlink()
    if fault == "other bytes":
        (served / f"{FILES[2]}.gz").write_bytes(gzip.compress(b"other"))
    closed = "http://127.0.0.1:9/"
    monkeypatch.setattr(datasets.MNIST, "mirrors", [closed if fault == "no mirror" else address])
    with pytest.raises(UserError) as failure:
        mnist(str(tmp_path / "data"))
    message = str(failure.value)
    assert message.startswith("MNIST cannot be ")
    assert len(message.splitlines()) == 1
    if fault != "no gzip":
        assert (closed if fault == "no mirror" else address) in message
        assert "data.images.folder=" in message
    assert {file.name for file in (tmp_path / "data" / "MNIST" / "raw").iterdir()} == {".lock"}


def test_statistics_are_the_known_ones_of_the_known_images_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path / "MNIST" / "raw", small_files(10))
    assert mnist(str(tmp_path)).statistics == idx(str(tmp_path)).statistics
    assert "other images than MNIST's" in caplog.text
    caplog.clear()
    monkeypatch.setattr(idx_module, "statistics", lambda images, where: (0.13066, 0.30811))
    assert mnist(str(tmp_path)).statistics == (0.1307, 0.3081)
    assert caplog.text == ""


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four files that pass for the official ones, and no source but folders."""
    files = small_files(10)
    digests = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(sources, "MD5", digests)
    monkeypatch.setattr(sources, "sources", lambda: [])
    for known in ("MNIST", "KMNIST"):
        monkeypatch.setattr(getattr(datasets, known), "mirrors", [])
    return files


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("suffix", "dot"), FORMS)
@pytest.mark.parametrize("layout", ["FashionMNIST/raw", ""])
def test_every_form_of_the_official_files_is_used_as_it_is(
    layout: str, suffix: str, dot: bool, official: dict[str, bytes], tmp_path: Path
) -> None:
    folder = lay(tmp_path / "data" / layout, official, suffix, dot)
    before = contents(tmp_path)
    data = str(tmp_path / "data")
    for images in (sources.fashion_mnist(data), sources.fashion_mnist(data, fetch=False), idx(data)):
        assert images.train_labels.tolist() == list(range(10)) * 6
    answer = call(scripts.data, data)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "60 training, 30 test images" in answer.stdout
    assert contents(tmp_path) == before
    copied = sources.fashion_mnist(str(tmp_path / "copy"), str(folder))
    assert len(copied.train) == 60
    assert contents(tmp_path / "data") == before


@pytest.mark.parametrize(("suffix", "dot"), FORMS)
def test_a_part_in_any_form_is_kept_and_the_rest_added(
    suffix: str, dot: bool, official: dict[str, bytes], tmp_path: Path
) -> None:
    raw = lay(tmp_path / "data" / sources.LAYOUT, dict(list(official.items())[:3]), suffix, dot)
    before = contents(raw)
    source = lay(tmp_path / "source", official, ".gz", dot=True)
    assert len(sources.fashion_mnist(str(tmp_path / "data"), str(source)).train) == 60
    assert contents(raw) == before | {raw / FILES[3]: official[FILES[3]], raw / ".lock": b""}
    changed_name = next(iter(before))
    changed_name.write_bytes(b"other")
    with pytest.raises(UsageError, match=f"Remove {changed_name}, or"):
        sources.fashion_mnist(str(tmp_path / "data"))


def test_other_files_beside_the_layout_are_left_alone(
    official: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lay(tmp_path, small_files(3))
    before = contents(tmp_path)
    source = lay(tmp_path / "source", official)
    assert len(sources.fashion_mnist(str(tmp_path), str(source)).train) == 60
    assert before.items() <= contents(tmp_path).items()
    assert f"{tmp_path}: its own files are left alone, for train-images-idx3-ubyte has md5" in caplog.text


@pytest.mark.parametrize(("suffix", "dot"), FORMS)
@pytest.mark.parametrize("name", READERS)
def test_digits_in_any_form_are_not_fetched(
    name: str, suffix: str, dot: bool, official: dict[str, bytes], tmp_path: Path
) -> None:
    lay(tmp_path / name / "raw", official, suffix, dot)
    before = contents(tmp_path)
    for fetch in (True, False):
        assert len(READERS[name](str(tmp_path), fetch=fetch).train) == 60
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("suffix", "dot"), FORMS)
def test_images_are_drawn_of_every_form(
    suffix: str, dot: bool, official: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts.images, "images_plot", lambda *_: Figure(figsize=(1, 1)))  # takes seconds
    for layout in ("FashionMNIST/raw", "raw", ""):
        lay(tmp_path / "data" / layout, official, suffix, dot)
        answer = call(scripts.images, tmp_path / "data", "-o", tmp_path / "images.png")
        assert answer.returncode == 0, answer.stderr


def test_a_folder_of_a_files_name_hides_no_file(tmp_path: Path) -> None:
    lay(tmp_path, small_files(), dot=True)
    (tmp_path / TRAIN).mkdir()
    assert len(idx(str(tmp_path)).train) == 60


def test_a_reader_fetches_nothing(tmp_path: Path) -> None:
    for name, read in READERS.items():
        with pytest.raises(UserError, match=f"{name} was expected in {tmp_path}"):
            read(str(tmp_path), fetch=False)
    with pytest.raises(UserError, match="Fashion-MNIST was expected"):
        sources.fashion_mnist(str(tmp_path), fetch=False)
    assert list(tmp_path.iterdir()) == []


def test_fashion_mnist_comes_from_a_mirror(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    files = small_files(10)
    lay(served, files, ".gz")
    monkeypatch.setattr(
        sources, "MD5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    )
    assert dict(sources.from_mirror(address, FILES)) == files
    (served / f"{TRAIN}.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(sources.Unavailable, match=f"{TRAIN} has md5"):
        dict(sources.from_mirror(address, FILES))
    (served / f"{TRAIN}.gz").unlink()
    with pytest.raises(sources.Unavailable, match="File not found"):
        dict(sources.from_mirror(address, FILES))


def test_a_run_of_a_folder_goes_on_and_is_read(tmp_path: Path) -> None:
    lay(tmp_path / "stripes", small_files())
    run = tmp_path / "run"
    overrides = [
        "data=idx",
        f"data.images.folder={tmp_path / 'stripes'}",
        f"hydra.run.dir={run}",
        "model=cnn_c",
    ]
    assert answer_in_process([*SMALL_IDX, *overrides])[0] in (0, None)
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    assert answer_in_process([f"resume={run}"])[0] in (0, None)
    assert json.loads((run / "metrics.json").read_text())["test"] == before["test"]

    (run / "metrics.json").unlink()  # an unfinished run is read, too
    (tmp_path / "stripes").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="there is no such folder"):
        RunDirectory(run).data_set()
    reader = RunDirectory(run, tmp_path / "moved")
    assert reader.model()(torch.zeros(1, 1, 28, 28)).shape == (1, 3)
    assert reader.data_module().splits["test"][1].tolist() == [0, 1, 2] * 10
    assert reader.data_set().classes == ("0", "1", "2")
