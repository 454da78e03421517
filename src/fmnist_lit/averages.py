"""The moving average of a network's weights, which is tested in their place."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def floats_and_counts(network: nn.Module) -> list[list[Tensor]]:
    """Return what is averaged of a network, its weights and buffers, and what is not, its whole numbers."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    return [[t for t in tensors if t.is_floating_point() == are_floats] for are_floats in (True, False)]


class MovingAverage(nn.Module):
    """An exponential moving average of a network's weights and buffers, to be asked in its place.

    After n steps it keeps (1 + n) / (10 + n) of itself, at most ``decay``, as TensorFlow's
    ExponentialMovingAverage does; else a short run is tested with what its weights were at the start.
    PyTorch's AveragedModel asks the device for n and walks through all layers in each step, for which a GPU
    then waits. The names of what a checkpoint keeps are its.

    Args:
        model: what is averaged.
        decay: share kept in each step.
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(model).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))
        self.decay, self.steps = decay, 0
        self.tensors: list[list[list[Tensor]]] = []

    def forward(self, images: Tensor) -> Any:
        """Ask the average."""
        return self.module(images)

    def follow(self, model: nn.Module) -> None:
        """Average a network from now on: where both are now, after as many steps as were taken before."""
        self.steps = int(self.n_averaged)
        self.tensors = [floats_and_counts(self.module), floats_and_counts(model)]

    def update(self) -> None:
        """Move towards the network as it is after a step; the first one is taken as it is."""
        assert self.tensors, "it follows no network yet"
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        (averages, counts), (weights, new_counts) = self.tensors
        get_ema_multi_avg_fn(kept)(averages, weights, self.steps)
        for count, new in zip(counts, new_counts, strict=True):
            count.copy_(new)
        self.steps += 1
        self.n_averaged.add_(1)
