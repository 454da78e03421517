"""A compact residual network of our own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmnist_lit.constraints import Count, Natural, Positive
from fmnist_lit.models.layers import Activation, convolution


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a weight, 0 to 1, that the means of all channels decide (Hu et al. 2018)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        weighed: Tensor = features * self.weigh(features.mean((2, 3)))[:, :, None, None]
        return weighed


class Residual(nn.Module):
    """Adds what a convolution makes of its input to the input (He et al. 2016).

    Args:
        squeeze: channels for each hidden unit of a squeeze-and-excitation; None: there is none.
    """

    def __init__(self, width: int, activation: Activation, squeeze: int | None = None) -> None:
        super().__init__()
        self.convolution = convolution(width, width, activation, bias=False)
        if squeeze is not None:
            self.convolution.append(SqueezeExcitation(width, max(1, width // squeeze)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        added: Tensor = features + self.convolution(features)
        return added


class MaxAndMean(nn.Module):
    """The largest value of each channel, then its mean: what is there, and how much of it."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, 2c)."""
        return torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)


class PooledCNN(nn.Module):
    """Layers of feature maps, their largest values and means, and one Linear layer.

    Args:
        layers: map images of (n, 1, 28, 28) to (n, channels, h, w).
        channels: of the last one.
        classes: outputs.
        logit_scale: what they are multiplied by; less than 1 lets the last layer learn faster.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, classes: int, logit_scale: float) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers, MaxAndMean())
        self.output = nn.Linear(2 * channels, classes)
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes)."""
        logits: Tensor = self.output(self.features(images)) * self.logit_scale
        return logits


class ResidualCNN(PooledCNN):
    """A stem at 28x28, then stages at 14, 7 and 3 pixels: pool, widen, refine.

    Pooling comes first in a stage, because a convolution at half the side costs a quarter.

    Args:
        stem: channels at 28x28.
        widths: channels of each stage, at most four.
        blocks: residual blocks of each stage.
        activation: "relu", "leaky_relu" or "gelu".
        classes: as ``PooledCNN`` takes it.
        logit_scale: likewise.
        squeeze: of each residual block, as ``Residual`` takes it.
    """

    def __init__(
        self,
        stem: Count,
        widths: Sequence[Count],
        blocks: Sequence[Natural],
        activation: Activation = "relu",
        classes: Count = 10,
        logit_scale: Positive = 1.0,
        squeeze: Count | None = None,
    ) -> None:
        if len(widths) != len(blocks) or len(widths) > 4:  # 28, 14, 7, 3, 1: four poolings at most
            raise ValueError(f"widths={widths} and blocks={blocks} must be of the same length, 4 at most.")
        layers: list[nn.Module] = [convolution(1, stem, activation, bias=False)]
        channels = stem
        for width, count in zip(widths, blocks, strict=True):
            layers += [
                nn.MaxPool2d(2),
                convolution(channels, width, activation, bias=False),
                *(Residual(width, activation, squeeze) for _ in range(count)),
            ]
            channels = width
        super().__init__(layers, channels, classes, logit_scale)
