"""LeNet-5 (LeCun et al. 1998) with ReLU and average pooling."""

from torch import nn

from fmnist_lit.constraints import Count
from fmnist_lit.models.cnn import CNN, Head


class LeNet(CNN):
    """Two 5x5 convolutions and three Linear layers: 61,706 parameters. Source: report batch_size.

    Args:
        head: "softmax" as printed (a double softmax under cross-entropy) or "logits".
        classes: outputs.
    """

    def __init__(self, head: Head = "softmax", classes: Count = 10) -> None:
        # 28x28 as if padded to 32x32, so that 400 numbers are left
        first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.AvgPool2d(2)]
        second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2)]
        super().__init__([*first, *second], [400, 120, 84], classes, head)
