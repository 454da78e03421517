"""Kinds of noise that skimage's ``random_noise`` has (report early_stopping imports it).

Pixels are 0 to 255; each change is ``(images, labels, generator) -> (images, labels)``, as in ``augment.py``.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fmnist_lit.constraints import NotNegative, Probability
from fmnist_lit.data.augment import Changed, MayBeOff

LEVELS = 256  # of a pixel: skimage scales by the power of two that holds them


@dataclass(frozen=True)
class SaltAndPepper(MayBeOff):
    """Makes some pixels white or black, as many of the one as of the other on average."""

    amount: Probability

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        drawn = torch.rand(images.shape, generator=generator, device=images.device)
        salted = torch.where(drawn < self.amount / 2, 255.0, images.to(torch.float32))
        return torch.where(drawn > 1 - self.amount / 2, 0.0, salted), labels


@dataclass(frozen=True)
class Speckle(MayBeOff):
    """Adds to each pixel a normal multiple of itself: black stays black."""

    std: NotNegative

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return (images * (1 + self.std * noise)).clamp_(0, 255), labels


@dataclass(frozen=True)
class PoissonNoise:
    """Draws each pixel from the Poisson distribution around it, as a camera counts light."""

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Changed:
        """Change the images."""
        scale = LEVELS / 255
        counts = torch.poisson(images.to(torch.float32) * scale, generator=generator)
        return (counts / scale).clamp_(0, 255), labels
