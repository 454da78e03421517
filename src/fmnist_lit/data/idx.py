"""Data sets of four IDX files, the form of MNIST and of its kin."""

import gzip
import logging
import math
import os
import socket
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import torch
from filelock import FileLock

from fmnist_lit.constraints import Text
from fmnist_lit.data.dataset import Images
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.files import write_new

log = logging.getLogger(__name__)

SIDE = 28
MOST = 1_000_000  # images of a file: whatever a header claims, no more is read
UNREADABLE = (OSError, EOFError, zlib.error)  # what a file raises, compressed or not
GZIP, UNSIGNED_BYTES = b"\x1f\x8b", 8
TIMEOUT_S = 30  # of one answer of a mirror
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
FILES = tuple(f"{split}-{kind}" for split in ("train", "t10k") for kind in (IMAGES, LABELS))


def idx(folder: Text, classes: Sequence[Text] | None = None) -> Images:
    """Read a folder of four IDX files under MNIST's names, compressed or not, or one that torchvision filled.

    Args:
        folder: with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
            t10k-labels-idx1-ubyte, or with a dot for the last but one hyphen.
        classes: their names, by label; None: the numbers.

    Raises:
        UsageError: a file is missing or damaged, or holds no data set; the message says what is wrong.
    """
    train, train_labels, test, test_labels = read_folder(place_of(Path(folder)))
    largest = int(train_labels.max())
    names = tuple(map(str, range(largest + 1))) if classes is None else tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"{folder}: there must be two classes or more, each with a name of its own.")
    largest = max(largest, int(test_labels.max()))
    if largest >= len(names):
        known = "the training labels end" if classes is None else "the names of data.images.classes end"
        raise UsageError(f"{folder}: there is a label {largest}, and {known} with {len(names) - 1}.")
    return Images(train, train_labels, test, test_labels, names, statistics(train, folder))


def mnist(folder: Text, fetch: bool = True) -> Images:
    """Read MNIST (LeCun et al. 1998) from a folder in torchvision's layout; torchvision fetches it.

    Args:
        fetch: what is missing.

    Raises:
        UserError: it cannot be had.
    """
    return of_torchvision("MNIST", Path(folder), tuple("0123456789"), (0.1307, 0.3081), fetch)


def kmnist(folder: Text, fetch: bool = True) -> Images:
    """Read Kuzushiji-MNIST (Clanuwat et al. 2018), ten cursive hiragana, as ``mnist`` reads its digits.

    Args:
        fetch: what is missing.

    Raises:
        UserError: it cannot be had.
    """
    names = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    return of_torchvision("KMNIST", Path(folder), names, (0.1918, 0.3483), fetch)


def of_torchvision(
    name: str, folder: Path, classes: Sequence[str], known: tuple[float, float], fetch: bool
) -> Images:
    """Read a data set that torchvision knows; say so if the files are not those of this name."""
    raw = folder / name / "raw"
    if not all(candidates(raw, file) for file in FILES):
        if not fetch:
            raise UserError(f"{name} was expected in {raw}, and it is not there whole.")
        download(name, raw)
    images = idx(str(raw), classes)
    if tuple(round(value, 4) for value in images.statistics) == known:
        return replace(images, statistics=known)
    log.warning("%s holds other images than %s's; their own mean and deviation are taken.", raw, name)
    return images


def download(name: str, raw: Path) -> None:
    """Let torchvision fetch and verify the files; each is written whole, and none is overwritten.

    Raises:
        UserError: no mirror has them, or the folder cannot be written.
    """
    from torchvision import datasets

    timeout = socket.getdefaulttimeout()
    try:
        raw.mkdir(parents=True, exist_ok=True)
        # Runs that start together wait here for the first one.
        with FileLock(raw / ".lock"), TemporaryDirectory(dir=raw, prefix=".fetched-") as root:
            if all(candidates(raw, file) for file in FILES):
                return
            log.info("Fetching %s ...", name)
            socket.setdefaulttimeout(TIMEOUT_S)  # torchvision would wait forever
            getattr(datasets, name)(root, download=True)
            for file in FILES:
                if not candidates(raw, file):
                    write_new(raw / file, (Path(root, name, "raw") / file).read_bytes())
    except RuntimeError as error:  # torchvision's, with each mirror's reason
        raise UserError(
            f"{name} cannot be fetched: {' '.join(str(error).split())} "
            f"Put its four files (.gz or not) into {raw}, or name another folder: data.images.folder=..."
        ) from error
    except OSError as error:
        raise UserError(f"{name} cannot be kept in {raw}: {error.strerror or error}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def candidates(folder: Path, file: str) -> list[Path]:
    """Return what a folder holds under the names that a file may have."""
    names = (file, file.replace("-idx", ".idx"))
    return [
        path for name in names for path in (folder / name, folder / f"{name}.gz") if os.path.lexists(path)
    ]


def place_of(folder: Path) -> Path:
    """Return the folder that holds the files: itself, or one of torchvision's layout below it.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not folder.is_dir():
        raise UsageError(f"data.images.folder={folder}: there is no such folder.")
    below = sorted({folder / "raw", *folder.glob("*/raw")})
    holding = [place for place in (folder, *below) if any(candidates(place, file) for file in FILES)]
    if holding and holding[0] != folder and len(holding) > 1:
        names = ", ".join(map(str, holding))
        raise UsageError(f"data.images.folder={folder} holds several data sets. Name one: {names}.")
    return holding[0] if holding else folder


def read_folder(folder: Path) -> Iterator[torch.Tensor]:
    """Read training images and labels, test images and labels.

    Raises:
        UsageError: one is missing, or damaged, or not for the other.
    """
    for images_file, labels_file in (FILES[:2], FILES[2:]):
        images, labels = read_idx(folder, images_file, 3), read_idx(folder, labels_file, 1)
        if len(images) != len(labels):
            raise UsageError(f"{folder}: {labels_file} holds {len(labels)} labels for {len(images)} images.")
        yield images
        yield labels


def read_idx(folder: Path, name: str, dimensions: int) -> torch.Tensor:
    """Read a file of unsigned bytes: images of (n, 28, 28) or labels of (n,).

    Args:
        dimensions: 3 or 1.

    Raises:
        UsageError: it is missing, something else, or damaged; the message says what is wrong.
    """
    path = next(iter(candidates(folder, name)), None)
    if path is None:
        raise UsageError(f"{folder} holds neither {name} nor {name}.gz.")
    try:
        with opened(path) as file:
            return parse_idx(file, dimensions)
    except ValueError as error:
        raise UsageError(f"{path} {error}") from error
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}") from error


def opened(path: Path) -> BinaryIO:
    """Open a file, compressed or not, whatever its name says."""
    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def reason(error: Exception) -> object:
    """Return why a file cannot be read, without its name."""
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or error


def parse_idx(file: BinaryIO, dimensions: int) -> torch.Tensor:
    """Turn an open IDX file into uint8 of its shape; no more is read than its header claims.

    Raises:
        ValueError: it is no data set's; the message says what it is or holds.
    """
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 or header[:2] != b"\0\0":
        raise ValueError("is no IDX file.")
    if header[2] != UNSIGNED_BYTES:
        raise ValueError("holds other numbers than unsigned bytes.")
    if header[3] != dimensions:
        raise ValueError(f"has {header[3]} dimensions; images have 3, labels 1.")
    if len(header) < 4 + 4 * dimensions:
        raise ValueError("is damaged: its header is cut off.")
    count, *sides = shape = struct.unpack(f">{dimensions}I", header[4:])
    if sides not in ([], [SIDE, SIDE]):
        raise ValueError(f"holds images of {sides[0]}x{sides[1]}; networks here take {SIDE}x{SIDE}.")
    if not 0 < count <= MOST:
        raise ValueError(f"claims {count:,} images or labels; there may be 1 to {MOST:,}.")
    expected = math.prod(shape)
    content = file.read(expected + 1)
    if len(content) != expected:
        held = "more" if len(content) > expected else f"{len(content):,}"
        raise ValueError(f"is damaged: its header claims {expected:,} bytes, and it holds {held}.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(shape)


def statistics(images: torch.Tensor, where: str) -> tuple[float, float]:
    """Return mean and standard deviation of all pixels in [0, 1].

    >>> statistics(torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8), "here")
    (0.5, 0.5)

    Raises:
        UsageError: all pixels are alike.
    """
    counts = images.flatten().bincount(minlength=256).double()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts @ values / counts.sum()).item()
    variance = (counts @ (values - mean) ** 2 / counts.sum()).item()
    if not variance:
        raise UsageError(f"{where}: all pixels of the training images are alike.")
    return mean, math.sqrt(variance)
