"""Drawn garment-like shapes in ten classes: a stand-in that needs no files and no network.

Learnable, not trivial: shirts, pullovers and coats share an outline and differ in sleeves, collar and
seam; every image varies in place, size, slant, shade and noise.
"""

from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import Field

from fmnist_lit.constraints import Seed
from fmnist_lit.data.dataset import CLASSES, Images

Images10 = Annotated[int, Field(ge=10, le=100_000, multiple_of=10)]  # equal classes
Point = tuple[float, float]
Shape = tuple[str, list[Point], float]  # kind ("fill" or "line"), points in [0, 1], shade relative to 1
Random = np.random.Generator

SIDE = 28
SUPERSAMPLING = 3  # drawn larger and averaged down, for soft edges


def drawn_garments(train: Images10, test: Images10, seed: Seed) -> Images:
    """Draw ``train`` and ``test`` images, equally many of each class, in a random order."""
    train_images, train_labels = draw_set(train, np.random.default_rng([seed, 0]))
    test_images, test_labels = draw_set(test, np.random.default_rng([seed, 1]))
    return Images(train_images, train_labels, test_images, test_labels)


def draw_set(count: int, random: Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw uint8 images of (count, 28, 28) and their labels."""
    labels = random.permutation(np.arange(count) % len(CLASSES)).astype(np.uint8)
    pixels = np.stack([draw(int(label), random) for label in labels])
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def draw(label: int, random: Random) -> np.ndarray:
    """Draw one garment, uint8 of (28, 28)."""
    size = SIDE * SUPERSAMPLING
    canvas = Image.new("L", (size, size))
    pen = ImageDraw.Draw(canvas)
    shade = random.uniform(90, 230)
    scale, slant = random.uniform(0.75, 1.0), random.uniform(-0.12, 0.12)
    shift_x, shift_y = random.uniform(-0.06, 0.06, 2)
    for kind, points, relative in GARMENTS[label](random):
        placed = [
            (
                size * (0.5 + shift_x + scale * (x - 0.5) + slant * (0.5 - y)),
                size * (0.5 + shift_y + scale * (y - 0.5)),
            )
            for x, y in points
        ]
        tone = int(min(255, shade * relative))
        if kind == "fill":
            pen.polygon(placed, fill=tone)
        else:
            pen.line(placed, fill=tone, width=SUPERSAMPLING)
    small = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    texture = random.normal(0, 22, small.shape) * (small > 0)
    return np.clip(small + texture, 0, 255).astype(np.uint8)


def mirrored(points: list[Point]) -> list[Point]:
    """Close a left half of an outline, from top to bottom, with its mirror image."""
    return points + [(1 - x, y) for x, y in reversed(points)]


def torso(random: Random, half: float, top: float, bottom: float, flare: float = 0.0) -> Shape:
    """Return the body of a garment, ``half`` as wide as it goes to the left."""
    half += random.uniform(-0.025, 0.025)
    return ("fill", mirrored([(0.5 - half, top), (0.5 - half - flare, bottom)]), 1.0)


def sleeves(random: Random, end: float, spread: float) -> list[Shape]:
    """Return both sleeves, from the shoulder down to the height ``end``."""
    end += random.uniform(-0.06, 0.06)
    left: list[Point] = [(0.34, 0.14), (0.34 - spread, end), (0.45 - spread, end + 0.03), (0.38, 0.36)]
    return [("fill", left, 0.92), ("fill", [(1 - x, y) for x, y in left], 0.92)]


def neck(depth: float) -> Shape:
    """Return a neck opening cut out of a torso."""
    return ("fill", [(0.41, 0.1), (0.5, 0.1 + depth), (0.59, 0.1)], 0.0)


def t_shirt(random: Random) -> list[Shape]:
    """Short sleeves."""
    return [*sleeves(random, 0.38, 0.2), torso(random, 0.19, 0.12, 0.88), neck(0.07)]


def trouser(random: Random) -> list[Shape]:
    """Two legs."""
    gap = random.uniform(0.02, 0.06)
    leg: list[Point] = [(0.33, 0.08), (0.5, 0.08), (0.5 - gap / 2, 0.94), (0.33, 0.94)]
    return [("fill", leg, 1.0), ("fill", [(1 - x, y) for x, y in leg], 1.0)]


def pullover(random: Random) -> list[Shape]:
    """Long sleeves and a closed front."""
    return [*sleeves(random, 0.78, 0.22), torso(random, 0.2, 0.12, 0.84), neck(0.04)]


def dress(random: Random) -> list[Shape]:
    """Narrow above, wide below."""
    return [torso(random, 0.1, 0.06, 0.95, flare=random.uniform(0.03, 0.16)), neck(0.05)]


def coat(random: Random) -> list[Shape]:
    """Long sleeves, a longer body and a dark seam in front."""
    seam: Shape = ("line", [(0.5, 0.14), (0.5, 0.92)], random.uniform(0.2, 0.7))
    return [*sleeves(random, 0.8, 0.21), torso(random, 0.2, 0.1, 0.93, flare=0.02), neck(0.08), seam]


def sandal(random: Random) -> list[Shape]:
    """A sole and thin straps."""
    sole: Shape = ("fill", [(0.06, 0.72), (0.94, 0.66), (0.94, 0.74), (0.06, 0.8)], 1.0)
    straps = random.uniform(0.15, 0.75, 4)
    height = random.uniform(0.35, 0.55)
    return [sole, *(("line", [(x, 0.71), (x + 0.18, height)], 0.9) for x in straps)]


def shirt(random: Random) -> list[Shape]:
    """Sleeves of any length, a collar and buttons."""
    buttons: list[Shape] = [
        ("fill", [(0.48, y), (0.53, y), (0.53, y + 0.04), (0.48, y + 0.04)], 0.45)
        for y in np.arange(0.28, 0.82, random.uniform(0.12, 0.18))
    ]
    body = torso(random, 0.19, 0.11, 0.88)
    return [*sleeves(random, random.uniform(0.4, 0.78), 0.2), body, neck(0.1), *buttons]


def sneaker(random: Random) -> list[Shape]:
    """A low shoe with a light sole."""
    heel = random.uniform(0.38, 0.48)
    upper: list[Point] = [(0.05, 0.7), (0.12, 0.58), (0.45, 0.5), (0.68, heel), (0.94, heel), (0.94, 0.7)]
    return [("fill", upper, 1.0), ("fill", [(0.04, 0.7), (0.95, 0.7), (0.95, 0.77), (0.04, 0.77)], 1.25)]


def bag(random: Random) -> list[Shape]:
    """A box with a handle."""
    top = random.uniform(0.32, 0.48)
    handle: Shape = ("line", [(0.32, top), (0.36, top - 0.2), (0.64, top - 0.2), (0.68, top)], 0.9)
    return [handle, ("fill", mirrored([(0.14, top), (random.uniform(0.06, 0.16), 0.85)]), 1.0)]


def ankle_boot(random: Random) -> list[Shape]:
    """A shoe with a shaft."""
    shaft = random.uniform(0.12, 0.32)
    outline: list[Point] = [(0.06, 0.84), (0.1, 0.66), (0.5, 0.52), (0.54, shaft), (0.9, shaft), (0.92, 0.84)]
    return [("fill", outline, 1.0)]


GARMENTS = (t_shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle_boot)
