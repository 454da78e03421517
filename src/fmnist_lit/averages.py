"""The moving average of a network's weights, which is tested in their place."""

from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def floats_and_counts(network: nn.Module) -> list[list[Tensor]]:
    """Return what is averaged of a network, its weights and buffers, and what is not, its whole numbers."""
    tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    return [[t for t in tensors if t.is_floating_point() == are_floats] for are_floats in (True, False)]


class MovingAverage(AveragedModel):
    """An exponential moving average of a network's weights and buffers.

    After n steps it keeps (1 + n) / (10 + n) of itself, at most ``decay``, as TensorFlow's
    ExponentialMovingAverage does; else a short run is tested with what its weights were at the start.
    PyTorch's class asks the device for n in each step, and a GPU then waits for the program.

    Args:
        model: what is averaged.
        decay: share kept in each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.requires_grad_(False)
        self.decay, self.steps = decay, 0
        self.tensors: list[list[list[Tensor]]] = []
        self.register_load_state_dict_post_hook(go_on_counting)

    def follow(self, model: nn.Module) -> None:
        """Find a network's tensors where they are now; to walk through its layers in each step takes long."""
        self.tensors = [floats_and_counts(self.module), floats_and_counts(model)]

    def update_parameters(self, model: nn.Module) -> None:
        """Move towards the network as it is after a step; the first one is taken as it is.

        What was moved to another device since the last ``follow`` is not found.
        """
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        if not self.tensors:
            self.follow(model)
        (averages, counts), (weights, new_counts) = self.tensors
        get_ema_multi_avg_fn(kept)(averages, weights, self.steps)
        for count, new in zip(counts, new_counts, strict=True):
            count.copy_(new)
        self.steps += 1
        self.n_averaged.add_(1)


def go_on_counting(average: MovingAverage, keys: Any) -> None:
    """Know the steps of a run that goes on."""
    average.steps = int(average.n_averaged)
