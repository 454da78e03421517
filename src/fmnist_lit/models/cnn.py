"""The three convolutional networks of report five_models, layer by layer as its tables print them."""

import math
from typing import Literal

from torch import Tensor, nn

from fmnist_lit.constraints import Count, NotNegative, Share

Head = Literal["softmax", "logits"]


def loss_floor(head: Head, classes: int) -> float:
    """Return the least cross-entropy of a head's output.

    Under a softmax as the last layer the loss applies softmax again: the best output, all probability
    on the right class, still costs something.

    >>> round(loss_floor("softmax", 10), 4)
    1.4612
    """
    return math.log(math.e + classes - 1) - 1 if head == "softmax" else 0.0


class CNN(nn.Module):
    """Feature maps, flattened, then a classifier."""

    loss_floor = 0.0  # of the cross-entropy of its output

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class CNNA(CNN):
    """Two small convolutions with BatchNorm: 2,174 parameters. Source: report five_models, CNN A."""

    def __init__(self, classes: Count = 10) -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        super().__init__(features, nn.Sequential(nn.Linear(4 * 7 * 7, classes)))


class CNNB(CNN):
    """One convolution and a wide Linear layer: 583,830 parameters. Source: report five_models, CNN B.

    Args:
        head: "softmax" as printed (probabilities out, hence a double softmax in the loss) or "logits".
        classes: outputs.
    """

    def __init__(self, head: Head = "softmax", classes: Count = 10) -> None:
        features = nn.Sequential(nn.Conv2d(1, 32, 3, padding=(1, 0)), nn.ReLU(), nn.MaxPool2d(2))
        classifier = nn.Sequential(nn.Linear(32 * 14 * 13, 100), nn.ReLU(), nn.Linear(100, classes))
        if head == "softmax":
            classifier.append(nn.Softmax(dim=1))
        super().__init__(features, classifier)
        self.loss_floor = loss_floor(head, classes)


class CNNC(CNN):
    """Two convolutions and three Linear layers: 35,044 parameters. Source: report five_models, CNN C."""

    def __init__(self, negative_slope: NotNegative = 0.01, dropout: Share = 0.2, classes: Count = 10) -> None:
        features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=(1, 0)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        classifier = nn.Sequential(
            nn.Linear(4 * 7 * 6, 100),
            nn.LeakyReLU(negative_slope),
            nn.Dropout(dropout),
            nn.Linear(100, 150),
            nn.LeakyReLU(negative_slope),
            nn.Dropout(dropout),
            nn.Linear(150, classes),
        )
        super().__init__(features, classifier)
