"""Random changes of whole batches on their device; each image gets its own."""

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample

SIDE = 28
# Of RandomErasing (Zhong et al. 2020), torchvision's defaults: share of the image, height over width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def batch_generator(device: torch.device, seed: int, epoch: int, batch: int) -> torch.Generator:
    """Return random numbers that depend on seed, epoch and batch alone, wherever a run was resumed.

    The three are not negative: Python gives -1 and -2 the same hash.
    """
    assert min(seed, epoch, batch) >= 0
    mixed = hash((seed, epoch, batch)) & 0x7FFF_FFFF_FFFF_FFFF  # of whole numbers, the same in every process
    return torch.Generator(device).manual_seed(mixed)


def transformed(
    images: torch.Tensor, angle: torch.Tensor, size: torch.Tensor, mirrored: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Mirror each image, make it ``size`` times as large, turn it about its centre, then move it.

    Args:
        images: float32 of (n, 28, 28).
        angle: degrees, counter-clockwise, (n,).
        size: (n,).
        mirrored: left to right, bool of (n,).
        shift: pixels to the right and down, (n, 2).
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
    return grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image; 0 leaves a change out. What comes in from outside is black.

    Args:
        shift: whole pixels at most, each way, each axis.
        flip: probability of a mirror image.
        rotation: degrees at most, each way.
        zoom: largest change of the size, each way, as a share.
        noise: standard deviation of normal noise, of pixels in [0, 1].
        erasing: probability that a rectangle becomes black (Zhong et al. 2020).
        validation: change the validation images too.
    """

    shift: int = 0
    flip: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    noise: float = 0.0
    erasing: float = 0.0
    validation: bool = False

    @property
    def changes_images(self) -> bool:
        """Whether anything may happen at all."""
        return any((self.shift, self.flip, self.rotation, self.zoom, self.noise, self.erasing))

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change uint8 images of (n, 28, 28): float32 of the same shape, still from 0 to 255."""
        changed = images.to(torch.float32)
        if self.shift or self.flip or self.rotation or self.zoom:
            changed = self.moved(changed, generator)
        if self.noise:
            noise = torch.randn(
                changed.shape, generator=generator, device=changed.device, dtype=changed.dtype
            )
            changed = (changed + 255 * self.noise * noise).clamp_(0, 255)
        if self.erasing:
            changed = changed.masked_fill(self.erased(len(changed), generator), 0)
        return changed

    def moved(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mirror, scale, turn and shift, in one interpolation."""
        n, device = len(images), images.device

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(n, generator=generator, device=device, dtype=torch.float32)

        angle = uniform(-self.rotation, self.rotation)
        size = uniform(1 - self.zoom, 1 + self.zoom)
        mirrored = uniform(0, 1) < self.flip
        steps = torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator, device=device)
        return transformed(images, angle, size, mirrored, steps.float())

    def erased(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Return which pixels become black, bool of (n, 28, 28)."""
        device = generator.device
        draws = torch.rand(5, n, 1, generator=generator, device=device, dtype=torch.float32)
        area = SIDE * SIDE * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * draws[0])
        low, high = map(math.log, ERASED_RATIO)
        ratio = torch.exp(low + (high - low) * draws[1])
        height = (area * ratio).sqrt().round().clamp(1, SIDE)
        width = (area / ratio).sqrt().round().clamp(1, SIDE)
        top, left = (draws[2] * (SIDE + 1 - height)).floor(), (draws[3] * (SIDE + 1 - width)).floor()
        position = torch.arange(SIDE, device=device)
        rows = (position >= top) & (position < top + height) & (draws[4] < self.erasing)
        columns = (position >= left) & (position < left + width)
        return rows.unsqueeze(2) & columns.unsqueeze(1)
