"""How much computation a network takes, by PyTorch's own counter, grouped convolutions put right."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode


def backward_flop(
    output: Sequence[int], images: Sequence[int], weight: Sequence[int], *further: Any, **kwargs: Any
) -> int:
    """Count the operations of a convolution's backward pass: each gradient takes as many as the forward pass.

    PyTorch's counter (as of 2.15) takes a grouped convolution's for a full one's.

    Args:
        further: bias, stride, padding, dilation, transposed, output padding, groups, and which gradients of
            images, weight and bias are wanted.
    """
    transposed, wanted = further[4], further[-1]
    places = images if transposed else output
    forward = 2 * places[0] * math.prod(places[2:]) * math.prod(weight)
    return int(forward * (wanted[0] + wanted[1]))


COUNTED = {torch.ops.aten.convolution_backward: backward_flop}


def training_flop(model: nn.Module, batch_size: int = 2, side: int = 28) -> float:
    """Count the floating-point operations of one image, forward and backward (a multiply-add is two).

    Args:
        side: of the image, in pixels.

    >>> training_flop(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))  # outputs, and gradients of weights
    31360.0
    """
    labels = torch.zeros(batch_size, dtype=torch.int64)
    copied, images = in_double_precision(model, batch_size, side)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        cross_entropy(copied.train()(images), labels).backward()
    return float(counter.get_total_flops()) / batch_size


def evaluation_flop(model: nn.Module) -> float:
    """Count the floating-point operations of asking a network of one image.

    >>> evaluation_flop(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    15680.0
    """
    copied, images = in_double_precision(model, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied.eval()(images)
    return float(counter.get_total_flops())


def in_double_precision(model: nn.Module, batch_size: int, side: int = 28) -> tuple[nn.Module, torch.Tensor]:
    """Return a copy of a network, and black images for it.

    The counter knows PyTorch's own products alone, and in double precision no layer uses others.
    """
    return copy.deepcopy(model).cpu().double(), torch.zeros(batch_size, 1, side, side).double()
