"""Random changes of whole batches on their device.

A change maps (images, labels, random numbers) to (images, labels). Images are uint8 or float32 of
(n, 28, 28), from 0 to 255. Labels are int64 of (n,), or what mixing makes of them: float32 of (n, classes),
the share of each class.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor, fft
from torch.nn.functional import affine_grid, grid_sample, one_hot

from fmnist_lit.constraints import NotNegative, Positive, Probability, Share
from fmnist_lit.data.dataset import CLASSES

SIDE = 28
# Of RandomErasing (Zhong et al. 2020), torchvision's defaults: share of the image, height over width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)
# Of FMix's waves, whose amplitude falls with this power of the frequency; as in the paper.
DECAY = 3
# What comes in from outside, in grid_sample's words.
FILLS = {"black": "zeros", "nearest": "border"}

Changed = tuple[Tensor, Tensor]
Change = Callable[[Tensor, Tensor, Generator], Changed]


def batch_generator(device: torch.device, seed: int, epoch: int, batch: int) -> Generator:
    """Return random numbers that depend on seed, epoch and batch alone, wherever a run was resumed.

    The mix is BLAKE2 of the three as text: the same in every process, and no two triples share their numbers.
    """
    mixed = blake2b(f"{seed} {epoch} {batch}".encode(), digest_size=8).digest()
    return Generator(device).manual_seed(int.from_bytes(mixed, "little") >> 1)


def uniform(low: float, high: float, shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw float32 numbers between two bounds."""
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return low + (high - low) * drawn


def transformed(
    images: Tensor, angle: Tensor, size: Tensor, mirrored: Tensor, shift: Tensor, fill: str = "black"
) -> Tensor:
    """Mirror each image, make it ``size`` times as large, turn it about its centre, then move it.

    Args:
        images: float32 of (n, 28, 28).
        angle: degrees, counter-clockwise, (n,).
        size: (n,).
        mirrored: left to right, bool of (n,).
        shift: pixels to the right and down, (n, 2).
        fill: what comes in from outside: a name in FILLS.
    """
    radians = angle.deg2rad()
    sine, cosine = radians.sin() / size, radians.cos() / size
    mirror = 1 - 2 * mirrored.float()
    # grid_sample asks for each new pixel where it comes from, in units of half an image.
    inverse = torch.stack(
        [torch.stack([mirror * cosine, mirror * -sine], 1), torch.stack([sine, cosine], 1)], 1
    )
    offset = inverse @ (-shift * (2 / SIDE)).unsqueeze(2)
    grid = affine_grid(torch.cat([inverse, offset], 2), [len(images), 1, SIDE, SIDE], align_corners=False)
    sampled = grid_sample(images.unsqueeze(1), grid, padding_mode=FILLS[fill], align_corners=False)
    return sampled.squeeze(1)


class MayBeOff:
    """A change that is left out where all of its numbers are 0: it would change nothing.

    But for what it fills pixels with: FILLING.
    """

    FILLING = ("fill", "value")

    def __bool__(self) -> bool:
        return any(number for name, number in vars(self).items() if name not in self.FILLING)


@dataclass(frozen=True)
class RandomAffine(MayBeOff):
    """Mirrors, scales, turns and shifts each image in its own way, in one interpolation.

    Args:
        shift: whole pixels at most, each way, each axis.
        flip: probability of a mirror image.
        rotation: degrees at most, each way.
        zoom: largest change of the size, each way, as a share.
        fill: what comes in from outside: "black", or "nearest", the image's nearest pixel (as Keras does).
    """

    shift: Annotated[int, Field(ge=0, le=27)] = 0
    flip: Probability = 0.0
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: Share = 0.0
    fill: Literal["black", "nearest"] = "black"

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        n = len(images)
        angle = uniform(-self.rotation, self.rotation, (n,), generator)
        size = uniform(1 - self.zoom, 1 + self.zoom, (n,), generator)
        mirrored = uniform(0, 1, (n,), generator) < self.flip
        low, high = -self.shift, self.shift + 1
        shift = torch.randint(low, high, (n, 2), generator=generator, device=generator.device).float()
        return transformed(images.float(), angle, size, mirrored, shift, self.fill), labels


@dataclass(frozen=True)
class GaussianNoise(MayBeOff):
    """Adds normal noise to each pixel; ``std`` is of pixels in [0, 1]."""

    std: NotNegative

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=torch.float32)
        return (images + 255 * self.std * noise).clamp_(0, 255), labels


@dataclass(frozen=True)
class RandomErasing(MayBeOff):
    """Erases a rectangle of an image with some probability (Zhong et al. 2020).

    Args:
        probability: of each image.
        value: what its pixels become, in [0, 1]. Black is what is behind the garment, so the garment looks
            cut; the paper's script has about the mean of all pixels.
    """

    probability: Probability
    value: Probability = 0.0

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        draws = uniform(0, 1, (5, len(images), 1), generator)
        area = SIDE * SIDE * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[0])
        low, high = map(math.log, ERASED_RATIO)
        ratio = torch.exp(low + (high - low) * draws[1])
        height = (area * ratio).sqrt().round().clamp(1, SIDE)
        width = (area / ratio).sqrt().round().clamp(1, SIDE)
        top, left = (draws[2] * (SIDE + 1 - height)).floor(), (draws[3] * (SIDE + 1 - width)).floor()
        height = height * (draws[4] < self.probability)
        return images.masked_fill(rectangles(top, left, height, width), round(255 * self.value)), labels


@dataclass(frozen=True)
class Cutout(MayBeOff):
    """Erases a square about a random pixel of each image (DeVries and Taylor 2017).

    Args:
        side: pixels; a part of the square may lie outside.
        value: as ``RandomErasing`` has it.
    """

    side: Annotated[int, Field(ge=0, le=2 * SIDE)]
    value: Probability = 0.0

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        corner = uniform(0, SIDE, (2, len(images), 1), generator).floor() - self.side // 2
        size = torch.full_like(corner[0], self.side)
        where = rectangles(corner[0], corner[1], size, size)
        return images.masked_fill(where, round(255 * self.value)), labels


def rectangles(top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return which pixels lie in each image's rectangle, bool of (n, 28, 28); what is given is of (n, 1)."""
    position = torch.arange(SIDE, device=top.device)
    rows = (position >= top) & (position < top + height)
    columns = (position >= left) & (position < left + width)
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def shares(labels: Tensor, classes: int) -> Tensor:
    """Return labels as float32 of (n, classes), the share of each class.

    >>> shares(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return labels if labels.is_floating_point() else one_hot(labels, classes).float()


@dataclass(frozen=True)
class Mixing:
    """Puts a part of another image of the batch, which it chooses at random, into each image.

    Args:
        alpha: of the Beta distribution of the share that stays: 1 is uniform, less prefers one of the two.
        classes: number of classes.
        probability: that a batch is mixed at all.
    """

    alpha: Positive
    classes: int = len(CLASSES)
    probability: Probability = 1.0

    def draw(self, n: int, generator: Generator) -> tuple[float, Tensor]:
        """Return the share that stays, one for the batch as in the papers, and each image's partner."""
        partners = torch.randperm(n, generator=generator, device=generator.device)
        # PyTorch's Beta takes no generator. A number drawn on a GPU would have to be waited for.
        state = blake2b(generator.get_state().numpy().tobytes(), digest_size=8).digest()
        drawn = np.random.default_rng(int.from_bytes(state, "little"))
        kept = float(drawn.beta(self.alpha, self.alpha))
        return kept if drawn.random() < self.probability else 1.0, partners

    def mixed(self, values: Tensor, partners: Tensor, kept: float | Tensor) -> Tensor:
        """Return weighted means of values and their partners'."""
        return values * kept + values[partners] * (1 - kept)


class MixUp(Mixing):
    """Averages each image with another, and their labels with the same weights (Zhang et al. 2018)."""

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change images and labels."""
        kept, partners = self.draw(len(images), generator)
        of_labels = self.mixed(shares(labels, self.classes), partners, kept)
        return self.mixed(images.float(), partners, kept), of_labels


class CutMix(Mixing):
    """Puts a rectangle of another image into each, its share of the area into the label (Yun et al. 2019)."""

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change images and labels."""
        kept, partners = self.draw(len(images), generator)
        # As in the paper: the centre lies anywhere, so that a part of the rectangle may lie outside.
        centre = uniform(0, SIDE, (2, 1, 1), generator).floor()
        half = round(SIDE * math.sqrt(1 - kept) / 2)
        start, stop = (centre - half).clamp(min=0), (centre + half).clamp(max=SIDE)
        inside = rectangles(start[0], start[1], *(stop - start))
        cut = torch.where(inside, images[partners], images)
        return cut, self.mixed(shares(labels, self.classes), partners, 1 - inside.float().mean())


class FMix(Mixing):
    """Puts blots of another image on each, their share of the area into the label (Harris et al. 2020).

    A blot is where a random landscape is low. The paper has one for a batch, here each image has its own.
    """

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change images and labels."""
        kept, partners = self.draw(len(images), generator)
        heights = landscapes(len(images), generator)
        lowest = heights.flatten(1).sort(1, descending=True).values[:, max(0, math.ceil(kept * SIDE**2) - 1)]
        stays = heights >= lowest.view(-1, 1, 1)
        share = stays.float().mean((1, 2)).unsqueeze(1)
        mixed = torch.where(stays, images, images[partners])
        return mixed, self.mixed(shares(labels, self.classes), partners, share)


def landscapes(n: int, generator: Generator) -> Tensor:
    """Draw smooth random heights, float32 of (n, 28, 28): waves of normal amplitudes, largest if long."""
    device = generator.device
    down, across = fft.fftfreq(SIDE, device=device), fft.rfftfreq(SIDE, device=device)
    frequency = (down.unsqueeze(1) ** 2 + across**2).sqrt().clamp(min=1 / SIDE)
    waves = torch.randn((n, *frequency.shape, 2), generator=generator, device=device)
    heights: Tensor = fft.irfft2(torch.view_as_complex(waves) / frequency**DECAY, s=(SIDE, SIDE))
    return heights
