"""scripts/predict.py: pictures of any kind, as the data set's own."""

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import scripts.predict
from fmnist_lit.data.dataset import CLASSES
from fmnist_lit.data.synthetic import drawn_garments
from fmnist_lit.plots import seen_plot
from fmnist_lit.readers.evaluate import evaluate
from fmnist_lit.readers.image_io import Picture, Unread, read_pictures
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


MODES = {
    "BMP": "1 L P RGB RGBA",
    "GIF": "1 L P RGB RGBA",
    "JPEG": "1 L RGB CMYK YCbCr",
    "PNG": "1 L LA P RGB RGBA I;16",
    "PPM": "1 L RGB",
    "TIFF": "1 L LA P RGB RGBA CMYK YCbCr I;16 I",
    "WEBP": "L P RGB RGBA",
}


@pytest.mark.parametrize("form", MODES)
def test_every_kind_of_file_is_read(form: str, tmp_path: Path) -> None:
    """Of several pictures in a file the first, in which the garment is high."""
    grey = Image.fromarray(np.where(garment((56, 56)) > 0, 255, 0).astype(np.uint8))
    pages = {"save_all": True, "append_images": [grey.rotate(90)]} if form in ("GIF", "TIFF", "WEBP") else {}
    for mode in MODES[form].split():
        scaled = Image.fromarray(np.asarray(grey, np.uint16) * 257) if mode == "I;16" else grey
        scaled = Image.fromarray(np.asarray(grey, np.int32) * 257) if mode == "I" else scaled
        image = scaled if mode in ("I", "I;16") else scaled.convert(mode)
        image.save(tmp_path / "picture", form, **({} if mode in ("I", "I;16") else pages))
        (picture,) = read_pictures(tmp_path / "picture")
        assert isinstance(picture, Picture), (mode, picture)
        seen = picture.pixels.numpy() > 127
        assert seen.sum(0).max() == 28, mode
        assert seen.sum(1).max() == pytest.approx(20, abs=2), mode


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_a_picture_that_is_cut_off_is_told(form: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut", form)
    whole = (tmp_path / "cut").read_bytes()
    for size in (10, len(whole) // 2):
        (tmp_path / "cut").write_bytes(whole[:size])
        (unread,) = read_pictures(tmp_path / "cut")
        assert isinstance(unread, Unread)
        assert "cut " in unread.reason
        assert "too large" not in unread.reason


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


def strap(height: int, width: int) -> np.ndarray:
    """A light strap on black."""
    return np.pad(np.full((height, width), 200, np.uint8), 30)


BLANK = {
    "strap": Image.fromarray(strap(1000, 4)),
    "thread": Image.fromarray(strap(1, 200)),
    "4 x 1000": Image.new("L", (4, 1000), 200),
    "1 x N": Image.fromarray(np.arange(200, dtype=np.uint8)[:, None]),
    "N x 1": Image.fromarray(np.arange(200, dtype=np.uint8)[None]),
    "one pixel": Image.new("L", (1, 1)),
    "black": Image.new("L", (50, 40)),
    "white, 28x28": Image.new("RGB", (28, 28), "white"),
    "nothing but transparent": Image.new("RGBA", (50, 50), (9, 9, 9, 0)),
    "faint": Image.fromarray(np.random.default_rng(0).integers(100, 110, (60, 60), dtype=np.uint8)),
}


@pytest.mark.parametrize("kind", BLANK)
def test_a_picture_of_which_nothing_is_left_gets_no_answer(kind: str, tmp_path: Path) -> None:
    BLANK[kind].save(tmp_path / "blank.png")
    (unread,) = read_pictures(tmp_path / "blank.png")
    assert isinstance(unread, Unread)
    assert "nothing of a garment is left" in unread.reason


@pytest.mark.parametrize("size", [(280, 10), (56, 3)])
def test_a_narrow_garment_is_read(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(strap(*size)).save(tmp_path / "narrow.png")
    (picture,) = read_pictures(tmp_path / "narrow.png")
    assert isinstance(picture, Picture)
    assert picture.pixels.max() > 100


def test_nothing_keeps_others_from_an_answer(
    runs: dict[str, Path], garments: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("0.png", "a/1.webp", "a/b/2.bmp", "a/b/3.GIF", "a/4.tif", ".hidden/no.png"):
        Image.fromarray(garments[0]).save(tmp_path / name)
    (tmp_path / "a" / "broken.png").write_text("no picture")
    for name in ("notes.txt", "Makefile", "a/more.txt"):
        (tmp_path / name).write_text("words")
    (tmp_path / "=1+1").write_bytes(idx(garments[1:3] * np.array([1, 0], np.uint8)[:, None, None]))
    line = (runs["mlp4"], tmp_path, tmp_path / "=1+1", tmp_path / "missing.png")
    for form in ("--json", "--csv"):
        answer = predict(*line, form)
        assert answer.returncode == 1
        left, heading, *faults = answer.stderr.splitlines()
        assert left == f"{tmp_path}: 4 files left out, no pictures by their names: .txt, =1+1, Makefile"
        assert heading == "error: 3 of 9 images got no answer:"
        assert [fault.split(" ")[0] for fault in faults] == [
            str(tmp_path / "a" / "broken.png"),
            f"{tmp_path}/=1+1[1]:",
            f"{tmp_path}/missing.png:",
        ]
        if form == "--json":
            rows = json.loads(answer.stdout)
        else:
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(answer.stdout))]
        names = [
            "0.png",
            "a/1.webp",
            "a/4.tif",
            "a/b/2.bmp",
            "a/b/3.GIF",
            "a/broken.png",
            "=1+1[0]",
            "=1+1[1]",
        ]
        assert [row["image"] for row in rows] == [str(tmp_path / name) for name in (*names, "missing.png")]
        assert ["class" in row for row in rows] == [True] * 5 + [False, True, False, False]
        assert ["error" in row for row in rows] == [False] * 5 + [True, False, True, True]
    assert "Background judged by each border" in predict(*line).stdout
    assert predict(*line, "--csv", "--json").returncode == 2


def test_a_long_answer_is_cut_and_summed_up(
    runs: dict[str, Path], garments: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images").write_bytes(idx(garments))
    answers = json.loads(predict(runs["mlp4"], "images", "--json").stdout)
    short = predict(runs["mlp4"], "images", "--limit", "3").stdout
    assert "The first 3 of 100 images" in short
    assert "images[2]" in short
    assert "images[3]" not in short
    for name, count in Counter(answer["class"] for answer in answers).items():
        assert f"│ {name} " in short
        assert f" {count} │" in short
    assert "The first" not in predict(runs["mlp4"], "images", "--limit", "100").stdout


def test_what_the_network_saw_is_drawn(
    runs: dict[str, Path], garments: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(garments[0]).save("boot.png")
    before = Path("boot.png").read_bytes()
    for line in (["boot.png", "--show"], [".", "--show", "--json"], ["--show", "new.png", "boot.png"]):
        answer = predict(runs["mlp4"], *line)
        assert answer.returncode == 0, answer.stderr
        assert "Drawn: " in answer.stdout + answer.stderr
        assert "seen.png" not in (answer.stdout if "--json" in line else "")
    with Image.open("new.png") as drawn:
        assert Path("seen.png").stat().st_size > 1000
        assert drawn.size[0] > 28
    for name in ("boot.png", "new.pdf"):
        answer = predict(runs["mlp4"], "boot.png", "--show", name)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert f"--show {name}: " in answer.stderr
    assert Path("boot.png").read_bytes() == before

    (axes,) = seen_plot(garments[:12], [f"class {i}" for i in range(12)]).axes
    assert [text.get_text() for text in axes.texts] == [f"class {i}" for i in range(12)]
    sheet = np.asarray(axes.images[0].get_array())
    assert sheet.shape == (80, 340)
    np.testing.assert_array_equal(sheet[42:70, 37:65], garments[11])


FAULTS: dict[str, tuple[Any, str]] = {
    "text.png": (lambda path: path.write_text("no picture"), "is no picture, whatever its name says"),
    "nothing.png": (lambda path: path.write_bytes(b""), "is no picture, whatever its name says"),
    "half.jpg": (write_damaged_jpeg, "cannot be read: image file is truncated"),
    "empty-folder": (lambda path: path.mkdir(), "holds no picture"),
    "missing.png": (lambda path: None, "No such file"),
    "images-idx3-ubyte": (
        lambda path: path.write_bytes(idx(np.zeros((3, 28, 28), np.uint8))[:-1]),
        "is damaged: its header claims 2,352 bytes, and it holds 2,351",
    ),
    "labels-idx1-ubyte": (lambda path: path.write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x01\x05"), "IDX"),
    "large-idx3-ubyte": (lambda path: path.write_bytes(idx(np.zeros((1, 32, 32), np.uint8))), "28x28"),
    "bomb.png": (lambda path: path.write_bytes(png(60_000, 60_000)), "too large: 50,000,000 pixels at most"),
    "large.png": (lambda path: path.write_bytes(png(12_000, 9_000)), "too large"),
    "wide.png": (lambda path: path.write_bytes(png(2**31 - 1, 1)), "too large"),
    "claims.jpg": (lambda path: path.write_bytes(jpeg(65_000, 65_000)), "too large"),
    "floats.tif": (lambda path: Image.new("F", (60, 60), 0.5).save(path), "more than 16 bits"),
    "long.tif": (lambda path: Image.new("I", (60, 60), 2**20).save(path), "more than 16 bits"),
    "twelve.png": (
        lambda path: Image.fromarray(np.full((60, 60), 4080, np.uint16)).save(path),
        "its 16-bit pixels end at 4,080",
    ),
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


def test_a_white_garment_on_nothing_is_seen(tmp_path: Path) -> None:
    """A picture that was cut out has no ground."""
    pixels = np.full((60, 60, 4), 255, np.uint8)
    pixels[..., 3] = 0
    pixels[10:50, 20:40, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    (picture,) = read_pictures(tmp_path / "cut.png")
    assert isinstance(picture, Picture)
    assert picture.background == "dark"
    assert picture.pixels[14, 14] == 255


def test_what_is_transparent_is_white_in_16_bits_too(tmp_path: Path) -> None:
    """PNG names a grey value that is transparent."""
    grey = np.full((60, 60), 20_000, np.uint16)
    grey[20:40, 20:30] = 40_000
    found = []
    for name, pixels, hole in (
        ("16.png", grey, 20_000),
        ("8.png", (grey >> 8).astype(np.uint8), 20_000 >> 8),
    ):
        Image.fromarray(pixels).save(tmp_path / name, transparency=hole)
        (picture,) = read_pictures(tmp_path / name)
        assert isinstance(picture, Picture)
        assert picture.background == "light"
        found.append(picture.pixels)
    assert found[0].equal(found[1])


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_picture_gets_one_message(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    write, part = FAULTS[name]
    write(tmp_path / name)
    answer = predict(runs["mlp4"], tmp_path / name, "--json")
    assert answer.returncode == 1
    (told,) = json.loads(answer.stdout)
    assert told["image"] == str(tmp_path / name)
    assert answer.stderr == f"error: {told['error']}\n"
    assert name in answer.stderr
    assert part in answer.stderr


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


def test_a_link_to_itself_keeps_no_picture_from_being_shown(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    Image.fromarray(np.eye(40, dtype=np.uint8) * 200).save(folder / "good.png")
    answer = predict(runs["mlp4"], folder, "--show", tmp_path / "seen.png")
    assert answer.returncode == 1
    assert "loop.png" in answer.stderr
    assert (tmp_path / "seen.png").is_file()
