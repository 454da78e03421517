"""Reads images of any size as a network wants them: like Fashion-MNIST's own.

A garment is light on a black ground, 28 pixels along its longer edge, in the middle. The steps are those by
which the data set was made (Xiao et al. 2017, section 2), but for its sharpening.
"""

import gzip
import io
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from fmnist_lit.data.idx import SIDE, parse_idx
from fmnist_lit.errors import UserError
from fmnist_lit.run_files import read_file

SUFFIXES = (".png", ".jpg", ".jpeg")
TRIM = 13  # grey values, 5% of 255: an edge this close to the ground is cut off
LARGEST = 2**28  # bytes of a file
MOST_PIXELS = 50_000_000  # of a picture; a small file may claim any number
MOST_IMAGES = 100_000  # of an IDX file
GZIP_MAGIC, IDX_MAGIC = b"\x1f\x8b", b"\x00\x00\x08"


class Picture(NamedTuple):
    """One picture: where it is from, uint8 pixels of (28, 28), and the background that was assumed."""

    name: str
    pixels: torch.Tensor
    background: str


def read_pictures(path: Path, background: str = "auto") -> list[Picture]:
    """Read a PNG or JPEG, all of a folder, or an IDX file of 28x28 images (gzip or not).

    Args:
        path: names starting with a dot are left out of a folder.
        background: "light", "dark", or "auto" to judge each picture by its border. An IDX file is taken
            as it is, light on dark.

    Raises:
        UserError: there is no picture, or it cannot be read.
    """
    if path.is_dir():
        shown = (file for file in path.iterdir() if file.name[0] != ".")
        files = sorted(file for file in shown if file.suffix.lower() in SUFFIXES)
        if not files:
            raise UserError(f"{path} holds no picture: none of its files ends in {', '.join(SUFFIXES)}.")
        return [read_picture(file, background) for file in files]
    if not path.exists():
        raise UserError(f"{path}: no such picture.")
    content = read_file(path, LARGEST)
    if content.startswith((GZIP_MAGIC, IDX_MAGIC)):
        return read_idx(path, content)
    return [read_picture(path, background)]


def read_idx(path: Path, content: bytes) -> list[Picture]:
    """Read an IDX file of images, as they are."""
    file = io.BytesIO(content)
    try:  # a small file may hold gigabytes
        with gzip.open(file) if content.startswith(GZIP_MAGIC) else file as unpacked:
            start = unpacked.read(8)
            claimed = int.from_bytes(start[4:], "big")
            if start.startswith(IDX_MAGIC + b"\x03") and claimed > MOST_IMAGES:
                raise UserError(f"{path} claims {claimed:,} images; {MOST_IMAGES:,} at most are read.")
            unpacked.seek(0)
            images = parse_idx(unpacked, 3)  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{path} is no IDX file of {SIDE}x{SIDE} images: it {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return [Picture(f"{path}[{i}]", pixels, "dark") for i, pixels in enumerate(images)]


def read_picture(path: Path, background: str) -> Picture:
    """Read one PNG or JPEG."""
    content = io.BytesIO(read_file(path, LARGEST))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about what is refused anyway
            file = Image.open(content, formats=("PNG", "JPEG"))
            size = f"{file.width}x{file.height} pixels"
            if file.width * file.height > MOST_PIXELS:
                raise UserError(f"{path} has {size}; {MOST_PIXELS:,} at most are read.")
            grey = to_grey(ImageOps.exif_transpose(file))
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no PNG or JPEG, whatever its name says.") from error
    except Exception as error:  # whatever a decoder raises on bytes from elsewhere
        raise UserError(f"{path} is damaged: {error}") from error
    ground = detect_background(grey) if background == "auto" else background
    light_on_dark = 255 - grey if ground == "light" else grey
    return Picture(str(path), torch.from_numpy(fitted(light_on_dark)), ground)


def to_grey(image: Image.Image) -> np.ndarray:
    """Turn any picture into uint8 grey values of (height, width); what is transparent becomes white."""
    if image.mode.startswith("I"):  # 16 bits; Pillow would cut off, not scale
        return (np.asarray(image, dtype=np.int32) >> 8).clip(0, 255).astype(np.uint8)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("L"))


def detect_background(grey: np.ndarray) -> str:
    """Judge the background, "light" or "dark", by the median of the border."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return "light" if np.median(border) > 127 else "dark"


def fitted(grey: np.ndarray) -> np.ndarray:
    """Trim the ground, scale the longer edge to 28 pixels, centre: uint8 of (28, 28).

    A picture of 28x28 already has the right form and stays as it is.
    """
    if grey.shape == (SIDE, SIDE):
        return grey
    ground = int(np.median([grey[0, 0], grey[0, -1], grey[-1, 0], grey[-1, -1]]))
    rows, columns = np.nonzero(np.abs(grey.astype(np.int16) - ground) > TRIM)
    if len(rows):
        grey = grey[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = (max(1, round(edge / max(grey.shape) * SIDE)) for edge in grey.shape)
    scaled = Image.fromarray(grey).resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (SIDE, SIDE), ground)
    canvas.paste(scaled, ((SIDE - scaled.width) // 2, (SIDE - scaled.height) // 2))
    return np.array(canvas)
