"""Activations by their names."""

from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu", "gelu"]


def activation_layer(activation: Activation, negative_slope: float = 0.01) -> nn.Module:
    """Return the activation of that name: "relu", "leaky_relu" with its slope, or "gelu"."""
    layers = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(negative_slope), "gelu": nn.GELU()}
    return layers[activation]
