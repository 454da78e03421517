"""A few operations on each image, drawn at random: RandAugment for whole batches on their device."""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from fmnist_lit.constraints import Probability
from fmnist_lit.data.augment import Changed, sampled, uniform

# The strongest of each operation, as in AutoAugment (Cubuk et al. 2019): degrees, and shares of the side.
ROTATION, SHEAR, SHIFT = 30.0, 0.3, 150 / 331
BITS, SHARPNESS = 4, 0.9  # taken from the eight of a pixel; more or less sharp


def moved(images: Tensor, kind: Tensor, strength: Tensor) -> Tensor:
    """Turn (kind 0), shear (1, 2) or shift (3, 4) each image about its centre; leave those of another kind.

    Args:
        images: float32 of (n, 28, 28).
        kind: int64 of (n,).
        strength: of the strongest, float32 of (n,), from -1 to 1.
    """
    turn, along, down, right, below = (strength * (kind == number) for number in range(5))
    sine, cosine = (turn * ROTATION).deg2rad().sin(), (turn * ROTATION).deg2rad().cos()
    # Where each new pixel comes from, in units of half an image.
    x = torch.stack([cosine, along * SHEAR - sine, right * 2 * SHIFT], 1)
    y = torch.stack([down * SHEAR + sine, cosine, below * 2 * SHIFT], 1)
    return sampled(images, torch.stack([x, y], 1))


def inverted(images: Tensor, strength: Tensor) -> Tensor:
    """Make black white, however strong."""
    return 255 - images


def posterized(images: Tensor, strength: Tensor) -> Tensor:
    """Keep the upper bits of each pixel."""
    step = (strength.abs() * BITS).round().exp2()
    return (images / step).floor() * step


def sharpened(images: Tensor, strength: Tensor) -> Tensor:
    """Move each pixel away from its neighbours' mean, or towards it."""
    mean = avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    blurred = (9 * mean + 4 * images) / 13  # the pixel itself counts five times, as in Pillow
    return (images + strength * SHARPNESS * (images - blurred)).clamp(0, 255)


def stretched(images: Tensor, strength: Tensor) -> Tensor:
    """Make the darkest pixel black and the brightest white, however strong: autocontrast."""
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    return (images - low) * (255 / (high - low).clamp(min=1))


MOVES = 5
TONES = (inverted, posterized, sharpened, stretched)


@dataclass(frozen=True)
class RandAugment:
    """Does some operations on each image, one after the other, each as strong as chance has it.

    Sources: Cubuk et al. 2020; each with a probability, as in Xie et al. 2020 (UDA). There is no operation on
    colours here, and none that makes an image brighter or darker as a whole.
    torchvision's does the same to all images of a batch, and takes no generator.

    Args:
        operations: draws of an operation for each image.
        probability: that it is done.
    """

    operations: Annotated[int, Field(ge=0, le=10)] = 2
    probability: Probability = 0.5

    def __bool__(self) -> bool:
        return self.operations > 0 and self.probability > 0

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        changed = images.float()
        for _ in range(self.operations):
            changed = self.operated(changed, generator)
        return changed, labels

    def operated(self, images: Tensor, generator: Generator) -> Tensor:
        """Do one operation on each image, or none."""
        n = len(images)
        kind = torch.randint(MOVES + len(TONES), (n,), generator=generator, device=generator.device)
        kind = kind.where(uniform(0, 1, (n,), generator) < self.probability, -1)
        strength = uniform(-1, 1, (n,), generator)
        changed = moved(images, kind, strength)
        for number, tone in enumerate(TONES, MOVES):
            toned = tone(changed, strength.view(-1, 1, 1))
            changed = toned.where((kind == number).view(-1, 1, 1), changed)
        return changed
