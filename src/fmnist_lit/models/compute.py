"""How much computation a training takes, as PyTorch's own counter sees it."""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode


def training_flop(model: nn.Module, batch_size: int = 2, side: int = 28) -> float:
    """Count the floating-point operations of one image, forward and backward (a multiply-add is two).

    Args:
        side: of the image, in pixels.

    >>> training_flop(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))  # outputs, and gradients of weights
    31360.0
    """
    # The counter knows PyTorch's own products alone, and in double precision no layer uses others.
    copied = copy.deepcopy(model).cpu().double().train()
    images = torch.zeros(batch_size, 1, side, side).double()
    labels = torch.zeros(batch_size, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(copied(images), labels).backward()
    return float(counter.get_total_flops()) / batch_size
