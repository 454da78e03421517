"""The same function in fewer seconds: how a model is prepared before it is trained or asked."""

import torch
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)


def prepare(model: nn.Module) -> nn.Module:
    """Give a model the memory format and the order of layers that run fastest; return it.

    Values, gradients and the names of parameters stay the same, so a checkpoint fits either way.
    """
    pool_before_activation(model)
    # On a CPU convolutions and pooling are vectorized over channels only in this format.
    return model.to(memory_format=torch.channels_last)


def pool_before_activation(model: nn.Module) -> None:
    """Let max pooling come before a rising activation, which then has a quarter of the work.

    Both orders give the same, for the largest of four numbers stays the largest under a rising function.
    """
    for layers in model.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for i in range(len(layers) - 1):
            if isinstance(layers[i], ACTIVATIONS) and isinstance(layers[i + 1], nn.MaxPool2d):
                layers[i], layers[i + 1] = layers[i + 1], layers[i]
