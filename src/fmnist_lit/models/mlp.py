"""Multilayer perceptrons."""

from collections.abc import Sequence

from torch import Tensor, nn

from fmnist_lit.constraints import Count, NotNegative, Share
from fmnist_lit.models.layers import Activation, hidden_layers
from fmnist_lit.models.patching import NoPatching


class MLP(nn.Module):
    """Linear, activation and dropout for each hidden width, then Linear to logits.

    Source: report five_models, tables MLP4 (500, 250, 250; ReLU) and MLP Custom (900, 500, 450, 250;
    LeakyReLU).

    Args:
        hidden: widths of the hidden layers.
        patch: a module of ``patching``; None sees the whole image.
        classes: outputs.

    >>> import torch
    >>> MLP([500, 250])(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        hidden: Sequence[Count],
        activation: Activation = "relu",
        negative_slope: NotNegative = 0.01,
        dropout: Share = 0.2,
        patch: nn.Module | None = None,
        classes: Count = 10,
    ) -> None:
        super().__init__()
        self.patch = patch or NoPatching()
        widths = [int(self.patch.features), *hidden]  # type: ignore[arg-type]
        self.hidden = nn.Sequential(*hidden_layers(widths, activation, negative_slope, dropout))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes)."""
        features: Tensor = self.hidden(self.patch(images))
        if features.ndim == 3:  # a row for each patch
            features = features.mean(1)
        logits: Tensor = self.output(features)
        return logits
