"""scripts/predict.py: pictures of any kind, as the data set's own."""

import gzip
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scripts.predict
from fmnist_lit.data.dataset import CLASSES
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.image_io import read_pictures
from fmnist_lit.readers.run_directory import RunDirectory
from tests.fixtures import Answer, call


def predict(*arguments: object) -> Answer:
    return call(scripts.predict, *arguments)


@pytest.fixture(scope="module")
def garments() -> np.ndarray:
    return drawn_garments(train=200, test=100, seed=0).test.numpy()


def idx(images: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in images.shape)
    return b"\x00\x00\x08\x03" + sizes + images.tobytes()


def garment(size: tuple[int, int] = (28, 28)) -> np.ndarray:
    """A light frame, higher than wide, on black; nothing near the border."""
    image = np.zeros(size, dtype=np.uint8)
    height, width = size
    image[height // 7 : -height // 7, width // 4 : -width // 4] = 200
    return image


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_gets_the_answers_of_evaluation(
    packed: bool, runs: dict[str, Path], garments: np.ndarray, tmp_path: Path
) -> None:
    for name, run in runs.items():
        file = tmp_path / f"images-{name}"
        file.write_bytes(gzip.compress(idx(garments)) if packed else idx(garments))
        answers = json.loads(predict(run, file, "--json").stdout)
        expected = evaluate(RunDirectory(run), "test", "best")
        assert [answer["class"] for answer in answers] == [CLASSES[i] for i in expected.predicted]
        given = [list(answer["probabilities"].values()) for answer in answers]
        np.testing.assert_allclose(given, expected.probabilities, atol=1e-6)


def test_a_folder_of_pictures_gets_a_row_each(
    runs: dict[str, Path], garments: np.ndarray, tmp_path: Path
) -> None:
    for i, image in enumerate(garments[:3]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Image.fromarray(255 - garments[0]).save(tmp_path / "photo.JPG")
    (tmp_path / "notes.txt").write_text("not a picture")
    answer = predict(runs["mlp4"], tmp_path, "--background", "dark")
    assert answer.returncode == 0, answer.stderr
    assert "as you said" in answer.stdout
    assert [str(tmp_path / name) for name in ("0.png", "1.png", "2.png", "photo.JPG")] == [
        row["image"] for row in json.loads(predict(runs["mlp4"], tmp_path, "--json").stdout)
    ]


PICTURES: dict[str, Any] = {
    "light on dark": lambda grey: Image.fromarray(grey),
    "dark on light": lambda grey: Image.fromarray(255 - grey),
    "colour": lambda grey: Image.fromarray(np.stack([255 - grey] * 3, axis=2)),
    "palette": lambda grey: Image.fromarray(grey).convert("P"),
    "16 bits": lambda grey: Image.fromarray(grey.astype(np.uint16) * 257),
    "one bit": lambda grey: Image.fromarray(grey > 100),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_every_kind_of_picture_becomes_light_on_dark(kind: str, tmp_path: Path) -> None:
    PICTURES[kind](garment()).save(tmp_path / "picture.png")
    (picture,) = read_pictures(tmp_path / "picture.png")
    expected = garment() if kind != "one bit" else np.where(garment() > 100, 255, 0)
    np.testing.assert_array_equal(picture.pixels.numpy(), expected)
    assert picture.background == ("light" if kind in ("dark on light", "colour") else "dark")


def test_what_is_transparent_is_ground(tmp_path: Path) -> None:
    grey = garment()
    layers = np.stack([255 - grey] * 3 + [np.where(grey > 0, 255, 0).astype(np.uint8)], axis=2)
    Image.fromarray(layers, "RGBA").save(tmp_path / "cut-out.png")
    (picture,) = read_pictures(tmp_path / "cut-out.png")
    np.testing.assert_array_equal(picture.pixels.numpy(), grey)


@pytest.mark.parametrize("size", [(280, 280), (1000, 300), (60, 200), (14, 14)])
def test_any_size_fills_the_longer_edge_and_is_centred(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(garment(size)).save(tmp_path / "large.png")
    (picture,) = read_pictures(tmp_path / "large.png")
    rows, columns = np.nonzero(picture.pixels.numpy() > 100)
    edges = rows.min(), 27 - rows.max(), columns.min(), 27 - columns.max()
    assert picture.pixels.shape == (28, 28)
    assert 0 in edges
    assert abs(int(edges[0]) - int(edges[1])) <= 1
    assert abs(int(edges[2]) - int(edges[3])) <= 1


def test_the_switch_overrules_the_border(tmp_path: Path) -> None:
    Image.fromarray(garment()).save(tmp_path / "picture.png")
    (judged,) = read_pictures(tmp_path / "picture.png")
    (said,) = read_pictures(tmp_path / "picture.png", "light")
    np.testing.assert_array_equal(said.pixels.numpy(), 255 - judged.pixels.numpy())


def test_an_empty_picture_is_no_fault(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((50, 40), dtype=np.uint8)).save(tmp_path / "black.png")
    (picture,) = read_pictures(tmp_path / "black.png")
    assert not picture.pixels.any()


def write_damaged_jpeg(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:800])


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size; its pixels compress to almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content = chunk(b"IHDR", size + b"\x08\x00\x00\x00\x00") + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size than it has."""
    file = io.BytesIO()
    Image.new("L", (16, 16)).save(file, "JPEG")
    start = file.getvalue().index(b"\xff\xc0") + 5
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return file.getvalue()[:start] + size + file.getvalue()[start + 4 :]


def bomb() -> bytes:
    """An IDX file of five million images in half a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (5_000_000, 28, 28))
    parts = [packer.compress(head), *(packer.compress(bytes(2**20)) for _ in range(100))]
    return b"".join([*parts, packer.flush()])


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 5000)])
def test_the_narrowest_pictures_are_read(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("L", size, 200).save(tmp_path / "narrow.png")
    (picture,) = read_pictures(tmp_path / "narrow.png")
    assert picture.pixels.shape == (28, 28)


FAULTS: dict[str, tuple[Any, str]] = {
    "text.png": (lambda path: path.write_text("no picture"), "is no PNG or JPEG"),
    "nothing.png": (lambda path: path.write_bytes(b""), "is no PNG or JPEG"),
    "half.jpg": (write_damaged_jpeg, "is damaged"),
    "empty-folder": (lambda path: path.mkdir(), "holds no picture"),
    "missing.png": (lambda path: None, "no such picture"),
    "images-idx3-ubyte": (
        lambda path: path.write_bytes(idx(np.zeros((3, 28, 28), np.uint8))[:-1]),
        "is damaged: its header claims 2,352 bytes, and it holds 2,351",
    ),
    "labels-idx1-ubyte": (lambda path: path.write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x01\x05"), "IDX"),
    "large-idx3-ubyte": (lambda path: path.write_bytes(idx(np.zeros((1, 32, 32), np.uint8))), "28x28"),
    "bomb.png": (lambda path: path.write_bytes(png(60_000, 60_000)), "pixels"),
    "large.png": (lambda path: path.write_bytes(png(12_000, 9_000)), "pixels"),
    "wide.png": (lambda path: path.write_bytes(png(2**31 - 1, 1)), "wide.png"),
    "claims.jpg": (lambda path: path.write_bytes(jpeg(65_000, 65_000)), "pixels"),
    "text.gz": (lambda path: path.write_bytes(gzip.compress(b"words, and no picture")), "is no IDX file"),
    "bomb.gz": (lambda path: path.write_bytes(bomb()), "claims"),
    "many-idx3-ubyte": (
        lambda path: path.write_bytes(b"\x00\x00\x08\x03\xff\xff\xff\xff\x00\x00\x00\x1c\x00\x00\x00\x1c"),
        "claims",
    ),
    "waits.png": (os.mkfifo, "no regular file"),
    "endless.png": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "loop.png": (lambda path: path.symlink_to(path.name), "loop.png"),
    "huge.png": (lambda path: path.touch() or os.truncate(path, 10 * 2**30), "larger than"),
    "images.gz": (
        lambda path: path.write_bytes(gzip.compress(idx(np.zeros((3, 28, 28), np.uint8)))[:-9]),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_picture_gets_one_message(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    write, part = FAULTS[name]
    write(tmp_path / name)
    answer = predict(runs["mlp4"], tmp_path / name, "--json")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert name in answer.stderr
    assert part in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_the_benchmark_gives_latency_and_throughput(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_lit.readers.predict.CALLS", 20)
    monkeypatch.setattr("fmnist_lit.readers.predict.BATCHES", 4)
    speed = json.loads(predict(runs["mlp4"], "--bench", "--json").stdout)
    assert 0 < speed["latency_median_ms"] <= speed["latency_p99_ms"]
    assert speed["images_per_second"] > 0
    assert "99th percentile" in predict(runs["mlp4"], "--bench").stdout


def test_a_call_without_images_is_a_wrong_command_line(runs: dict[str, Path]) -> None:
    answer = predict(runs["mlp4"])
    assert answer.returncode == 2
    assert "IMAGE" in answer.stderr
