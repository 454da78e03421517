"""Activations by their names."""

from torch import nn


def activation_layer(activation: str, negative_slope: float = 0.01) -> nn.Module:
    """Return the activation of that name: "relu", "leaky_relu" with its slope, or "gelu"."""
    layers = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(negative_slope), "gelu": nn.GELU()}
    return layers[activation]
