"""LeNet-5 (LeCun et al. 1998) with ReLU and average pooling."""

from torch import nn

from fmnist_lit.models import CLASSES
from fmnist_lit.models.cnn import CNN, DOUBLE_SOFTMAX_FLOOR


class LeNet(CNN):
    """Two 5x5 convolutions and three Linear layers: 61,706 parameters. Source: report batch_size.

    Args:
        head: "softmax" as printed (a double softmax under cross-entropy) or "logits".
    """

    def __init__(self, head: str = "softmax") -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),  # 28x28 as if padded to 32x32, so that 400 numbers are left
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        classifier = nn.Sequential(
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, CLASSES)
        )
        if head == "softmax":
            classifier.append(nn.Softmax(dim=1))
        super().__init__(features, classifier)
        self.loss_floor = DOUBLE_SOFTMAX_FLOOR if head == "softmax" else 0.0
