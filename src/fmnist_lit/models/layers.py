"""Layers that several networks repeat."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu", "gelu"]


def activation_layer(activation: Activation, negative_slope: float = 0.01) -> nn.Module:
    """Return the activation of that name: "relu", "leaky_relu" with its slope, or "gelu"."""
    layers = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(negative_slope), "gelu": nn.GELU()}
    return layers[activation]


def hidden_layers(
    widths: Sequence[int],
    activation: Activation = "relu",
    negative_slope: float = 0.01,
    dropout: float | None = None,
) -> list[nn.Module]:
    """Return a Linear layer from each width to the next, each with its activation.

    Args:
        widths: inputs first.
        dropout: after each activation; None: no such layer.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation_layer(activation, negative_slope)]
        if dropout is not None:
            layers.append(nn.Dropout(dropout))
    return layers


def convolution(
    inputs: int,
    outputs: int,
    activation: Activation | None = "relu",
    bias: bool = True,
    kernel: int = 3,
    groups: int = 1,
) -> nn.Sequential:
    """Return a convolution that keeps the size, with BatchNorm and, but for None, an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(outputs),
        *([] if activation is None else [activation_layer(activation)]),
    )
