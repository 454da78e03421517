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

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
TRIM = 13  # grey values, 5% of 255: an edge this close to the ground is cut off
LARGEST = 2**28  # bytes of a file
MOST_PIXELS = 50_000_000  # of a picture; a small file may claim any number
FEWER_BITS = 2**13  # a picture of 16 bits whose values end below it holds 8, 10 or 12
MOST_IMAGES = 100_000  # of an IDX file
GZIP_MAGIC, IDX_MAGIC = b"\x1f\x8b", b"\x00\x00\x08"
CENTRED = (0.49, 0.49)  # an odd pixel more goes to the right and below
NOTHING = "nothing of a garment is left"


class Picture(NamedTuple):
    """One picture: where it is from, uint8 pixels of (28, 28), and the background that was assumed."""

    name: str
    pixels: torch.Tensor
    background: str


class Unread(NamedTuple):
    """What gave no picture, and why."""

    name: str
    reason: str


def pictures_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the files at and below a folder that are pictures by their names, and the others.

    Names that start with a dot are left out; a link to a folder is not followed, and is one of the others.
    """
    suffixes = [suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS]
    found = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    shown = [path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts)]
    pictures = [path for path in shown if path.suffix.lower() in suffixes and not path.is_dir()]
    return pictures, [path for path in shown if path not in set(pictures)]


def read_pictures(path: Path, background: str = "auto") -> list[Picture | Unread]:
    """Read a picture, or an IDX file of 28x28 images (gzip or not); of an animation the first picture.

    Args:
        background: "light", "dark", or "auto" to judge each picture by its border. An IDX file is taken
            as it is, light on dark.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} holds no picture.")
        content = read_file(path, LARGEST)
        packed = content.startswith((GZIP_MAGIC, IDX_MAGIC))
        read = read_idx(path, content) if packed else [read_picture(path, content, background)]
    except UserError as error:
        return [Unread(str(path), str(error))]
    return [told_if_blank(picture) for picture in read]


def told_if_blank(picture: Picture) -> Picture | Unread:
    """Return a picture unless nothing in it stands out from the ground."""
    if int(picture.pixels.max()) - int(picture.pixels.min()) > TRIM:
        return picture
    return Unread(picture.name, f"{picture.name}: {NOTHING}: its pixels are alike.")


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


def read_picture(path: Path, content: bytes, background: str) -> Picture:
    """Read one picture.

    Raises:
        UserError: it is none, or too large, or damaged, or nothing of it is left at 28x28 pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about what is refused anyway
            file = Image.open(io.BytesIO(content), formats=FORMATS)
            if file.width * file.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            grey = to_grey(ImageOps.exif_transpose(file))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: {MOST_PIXELS:,} pixels at most are read.") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise UserError(f"{path} is no picture, whatever its name says: {kinds} and IDX are read.") from error
    except Exception as error:  # whatever a decoder raises on bytes from elsewhere
        raise UserError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error
    ground = detect_background(grey) if background == "auto" else background
    pixels = fitted(255 - grey if ground == "light" else grey)
    if pixels is None:
        height, width = grey.shape
        raise UserError(f"{path} has {width}x{height} pixels: {NOTHING} of them at {SIDE}x{SIDE}.")
    return Picture(str(path), torch.from_numpy(pixels), ground)


def to_grey(image: Image.Image) -> np.ndarray:
    """Turn any picture into uint8 grey values of (height, width); what is transparent becomes white, or black
    where nothing else would stand out.

    Raises:
        ValueError: its pixels have another range than 8 or 16 bits, or use a part of 16 bits alone.
    """
    if image.mode.startswith(("I", "F")):  # 16 bits; Pillow would cut off, not scale
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        if 0 < values.max() < FEWER_BITS:  # black to whoever scales them
            raise ValueError(
                f"its 16-bit pixels end at {values.max():,}; save it with 8 bits, or 65,535 for white"
            )
        values = np.where(values == image.info.get("transparency", -1), 2**16 - 1, values)
        return (values >> 8).astype(np.uint8)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        on_white = on_ground(layer, "white")
        return on_white if np.ptp(on_white) > TRIM else on_ground(layer, "black")
    return np.array(image.convert("L"))


def on_ground(layer: Image.Image, colour: str) -> np.ndarray:
    """Return the grey values of a picture laid on a ground of one colour."""
    return np.array(Image.alpha_composite(Image.new("RGBA", layer.size, colour), layer).convert("L"))


def detect_background(grey: np.ndarray) -> str:
    """Judge the background, "light" or "dark", by the median of the border."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return "light" if np.median(border) > 127 else "dark"


def fitted(grey: np.ndarray) -> np.ndarray | None:
    """Trim the ground, scale the longer edge to 28 pixels, centre: uint8 of (28, 28).

    A picture of 28x28 already has the right form and stays as it is.

    Returns:
        None for a strap or thread, the shorter edge of which would be less than a pixel.
    """
    if grey.shape == (SIDE, SIDE):
        return grey
    ground = int(np.median([grey[0, 0], grey[0, -1], grey[-1, 0], grey[-1, -1]]))
    garment = Image.fromarray(np.abs(grey.astype(np.int16) - ground) > TRIM)
    trimmed = Image.fromarray(grey).crop(garment.getbbox())  # None, where nothing stands out: all of it
    if min(trimmed.size) * SIDE < max(trimmed.size):
        return None
    return np.array(ImageOps.pad(trimmed, (SIDE, SIDE), Image.Resampling.LANCZOS, ground, CENTRED))
