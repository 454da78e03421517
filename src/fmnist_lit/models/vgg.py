"""VGG11 (Simonyan and Zisserman 2015, configuration A) for images of 28x28."""

from torch import nn

from fmnist_lit.constraints import Count, Share
from fmnist_lit.models.cnn import CNN

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
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        classifier = nn.Sequential(
            nn.Linear(channels, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, classes),
        )
        super().__init__(nn.Sequential(*layers), classifier)
