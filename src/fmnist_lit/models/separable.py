"""A residual network of separable convolutions: more layers for the same weights and the same computation."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fmnist_lit.constraints import Count, Natural, Positive
from fmnist_lit.models.layers import Activation, convolution
from fmnist_lit.models.residual import PooledCNN, SqueezeExcitation

Kernel = Literal[3, 5, 7]


class InvertedResidual(nn.Module):
    """Widens its input, filters each channel by itself, narrows it, and adds that (Sandler et al. 2018).

    Args:
        width: channels.
        expansion: how many times as many are filtered.
        kernel: side of the filters.
        squeeze: channels for each hidden unit of a squeeze-and-excitation, as Howard et al. 2019 have it;
            None: there is none.
    """

    def __init__(
        self, width: int, expansion: int, kernel: int, activation: Activation, squeeze: int | None
    ) -> None:
        super().__init__()
        inner = width * expansion
        self.layers = nn.Sequential(
            convolution(width, inner, activation, bias=False, kernel=1),
            convolution(inner, inner, activation, bias=False, kernel=kernel, groups=inner),
            *([] if squeeze is None else [SqueezeExcitation(inner, max(1, inner // squeeze))]),
            convolution(inner, width, None, bias=False, kernel=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        added: Tensor = features + self.layers(features)
        return added


class SeparableCNN(PooledCNN):
    """Stages at 28, 14, 7 and 3 pixels of inverted residuals; between them pool and widen.

    Args:
        widths: channels of each stage, at most five; the first is what the stem gives.
        blocks: inverted residuals of each stage.
        expansion: of each, as ``InvertedResidual`` takes it.
        kernel: of each.
        activation: "relu", "leaky_relu" or "gelu".
        classes: as ``PooledCNN`` takes it.
        logit_scale: likewise.
        squeeze: of each block, as ``InvertedResidual`` takes it.
    """

    def __init__(
        self,
        widths: Sequence[Count],
        blocks: Sequence[Natural],
        expansion: Count = 4,
        kernel: Kernel = 3,
        activation: Activation = "gelu",
        classes: Count = 10,
        logit_scale: Positive = 1.0,
        squeeze: Count | None = None,
    ) -> None:
        if len(widths) != len(blocks) or not 1 <= len(widths) <= 5:  # 28, 14, 7, 3, 1
            raise ValueError(f"widths={widths} and blocks={blocks} must be of the same length, 1 to 5.")
        layers: list[nn.Module] = [convolution(1, widths[0], activation, bias=False)]
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage:
                layers += [nn.MaxPool2d(2), convolution(channels, width, None, bias=False, kernel=1)]
            layers += [InvertedResidual(width, expansion, kernel, activation, squeeze) for _ in range(count)]
            channels = width
        super().__init__(layers, channels, classes, logit_scale)
