"""A residual network of separable convolutions: more layers for the same weights and the same computation."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fmnist_lit.constraints import Count, Natural, Positive
from fmnist_lit.models.layers import Activation, activation_layer
from fmnist_lit.models.residual import MaxAndMean, SqueezeExcitation

Kernel = Literal[3, 5, 7]


def normalized(layer: nn.Conv2d, *further: nn.Module) -> nn.Sequential:
    """Return a convolution with BatchNorm and whatever comes behind it."""
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), *further)


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
        filters = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False)
        self.layers = nn.Sequential(
            normalized(nn.Conv2d(width, inner, 1, bias=False), activation_layer(activation)),
            normalized(filters, activation_layer(activation)),
            *([] if squeeze is None else [SqueezeExcitation(inner, max(1, inner // squeeze))]),
            normalized(nn.Conv2d(inner, width, 1, bias=False)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, width, h, w) to the same shape."""
        added: Tensor = features + self.layers(features)
        return added


class SeparableCNN(nn.Module):
    """Stages at 28, 14, 7 and 3 pixels of inverted residuals; between them pool and widen.

    Args:
        widths: channels of each stage, at most five; the first is what the stem gives.
        blocks: inverted residuals of each stage.
        expansion: of each, as ``InvertedResidual`` takes it.
        kernel: of each.
        activation: "relu", "leaky_relu" or "gelu".
        classes: outputs.
        logit_scale: what they are multiplied by; less than 1 lets the last layer learn faster.
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
        super().__init__()
        stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = [normalized(stem, activation_layer(activation))]
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage:
                layers += [nn.MaxPool2d(2), normalized(nn.Conv2d(channels, width, 1, bias=False))]
            layers += [InvertedResidual(width, expansion, kernel, activation, squeeze) for _ in range(count)]
            channels = width
        self.features = nn.Sequential(*layers, MaxAndMean())
        self.output = nn.Linear(2 * channels, classes)
        self.logit_scale = logit_scale

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes)."""
        logits: Tensor = self.output(self.features(images)) * self.logit_scale
        return logits
