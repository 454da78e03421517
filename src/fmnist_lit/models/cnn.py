"""The three convolutional networks of report five_models, layer by layer as its tables print them."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import Tensor, nn

from fmnist_lit.constraints import Count, NotNegative, Share
from fmnist_lit.models.layers import Activation, convolution, hidden_layers

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
    """Feature maps, flattened, then Linear layers.

    Args:
        features: layers that make the feature maps.
        widths: of the Linear layers' inputs.
        classes: outputs.
        head: "softmax" (probabilities out, hence a double softmax in the loss) or "logits".
        activation: of the hidden Linear layers, as ``hidden_layers`` takes it, and so on.
    """

    def __init__(
        self,
        features: Iterable[nn.Module],
        widths: Sequence[int],
        classes: int,
        head: Head = "logits",
        activation: Activation = "relu",
        negative_slope: float = 0.01,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        hidden = hidden_layers(widths, activation, negative_slope, dropout)
        self.classifier = nn.Sequential(*hidden, nn.Linear(widths[-1], classes))
        if head == "softmax":
            self.classifier.append(nn.Softmax(dim=1))
        self.loss_floor = loss_floor(head, classes)  # of the cross-entropy of its output

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


class CNNA(CNN):
    """Two small convolutions with BatchNorm: 2,174 parameters. Source: report five_models, CNN A."""

    def __init__(self, classes: Count = 10) -> None:
        features = [*convolution(1, 4), nn.MaxPool2d(2), *convolution(4, 4), nn.MaxPool2d(2)]
        super().__init__(features, [4 * 7 * 7], classes)


class CNNB(CNN):
    """One convolution and a wide Linear layer: 583,830 parameters. Source: report five_models, CNN B.

    Args:
        head: "softmax" as printed or "logits".
        classes: outputs.
    """

    def __init__(self, head: Head = "softmax", classes: Count = 10) -> None:
        features = [nn.Conv2d(1, 32, 3, padding=(1, 0)), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(features, [32 * 14 * 13, 100], classes, head)


class CNNC(CNN):
    """Two convolutions and three Linear layers: 35,044 parameters. Source: report five_models, CNN C."""

    def __init__(self, negative_slope: NotNegative = 0.01, dropout: Share = 0.2, classes: Count = 10) -> None:
        first = [nn.Conv2d(1, 32, 3, padding=(1, 0)), nn.ReLU(), nn.MaxPool2d(2)]
        features = [*first, *convolution(32, 4), nn.MaxPool2d(2)]
        widths = [4 * 7 * 6, 100, 150]
        super().__init__(features, widths, classes, "logits", "leaky_relu", negative_slope, dropout)
