"""A data set in memory, and facts that hold for all of ours."""

from dataclasses import dataclass

import torch

CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Of Fashion-MNIST's 60,000 training images, pixels in [0, 1].
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530


@dataclass(frozen=True)
class Images:
    """Training and test images, uint8 of (n, 28, 28), with labels, uint8 of (n,).

    Args:
        classes: their names, by label.
        statistics: mean and standard deviation of the training pixels in [0, 1].
    """

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    classes: tuple[str, ...] = CLASSES
    statistics: tuple[float, float] = (PIXEL_MEAN, PIXEL_STD)

    def __post_init__(self) -> None:
        for images, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            assert images.dtype == labels.dtype == torch.uint8
            assert images.shape == (len(labels), 28, 28)
            assert int(labels.max()) < len(self.classes)
