"""A model's layers as the reports print them: type, output shape and parameters."""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook


class Row(NamedTuple):
    """One layer: its type, its output's shape without the batch, and its trainable parameters."""

    layer: str
    output: tuple[int, ...]
    parameters: int


def parameter_count(model: nn.Module) -> int:
    """Count the trainable parameters.

    >>> parameter_count(nn.Linear(784, 10))
    7850
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def layer_table(model: nn.Module) -> list[Row]:
    """List the innermost layers in the order in which a real forward pass of one image calls them.

    As in the reports, what only reshapes is left out.

    >>> for row in layer_table(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2))):
    ...     print(*row)
    Conv2d (4, 28, 28) 40
    MaxPool2d (4, 14, 14) 0
    """
    rows: list[Row] = []

    def record(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        if not list(layer.children()) and not getattr(layer, "only_reshapes", False):
            rows.append(Row(type(layer).__name__, tuple(output.shape[1:]), parameter_count(layer)))

    training = model.training
    hook = register_module_forward_hook(record)
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 1, 28, 28))
    finally:
        hook.remove()
        model.train(training)
    return rows
