"""VGG11 (Simonyan and Zisserman 2015, configuration A) for images of 28x28."""

from torch import nn

from fmnist_lit.constraints import Count, Share
from fmnist_lit.models.cnn import CNN
from fmnist_lit.models.layers import convolution

# Channels of each convolution between two poolings.
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG11(CNN):
    """Eight convolutions with BatchNorm, three Linear layers: 9,755,274 parameters.

    Report five_models gave it up for size inconsistencies: five poolings that round down leave nothing of
    28 pixels. Here they round up: 28, 14, 7, 4, 2, 1. The Linear layers are 512 wide, not 4,096, for
    there are ten classes, not a thousand.

    Args:
        dropout: before the second and the third Linear layer.
        classes: outputs.
    """

    def __init__(self, dropout: Share = 0.5, classes: Count = 10) -> None:
        layers: list[nn.Module] = []
        channels = 1
        for stage in STAGES:
            for width in stage:
                layers += convolution(channels, width)
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        super().__init__(layers, [channels, 512, 512], classes, dropout=dropout)
