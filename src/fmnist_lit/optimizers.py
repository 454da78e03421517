"""Optimizers that PyTorch has not."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fmnist_lit.constraints import NotNegative, Positive, Share

# Of Newton and Schulz's iteration: singular values of 0.001 to 1 end about 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors whose singular values are all about 1.

    >>> torch.linalg.svdvals(orthogonal(torch.eye(3) * torch.tensor([9.0, 2.0, 1.0]))).round(decimals=1)
    tensor([1.1000, 0.9000, 0.7000])
    """
    a, b, c = COEFFICIENTS
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.addmm(wide, polynomial, wide, beta=a)
    return wide if wide.shape == matrix.shape else wide.T


class Muon(Optimizer):
    """Turns each step of a convolution's filters into an orthogonal matrix (Jordan et al. 2024: Muon).

    All else takes SGD's step with Nesterov's momentum, at a rate of its own.

    Args:
        lr: of filters: each step is of this size, whatever the gradient's.
        others_lr: of all else.
        momentum: of both.
        weight_decay: of both, as SGD has it: added to the gradient of all else; of filters, to the step.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: Positive,
        others_lr: Positive,
        momentum: Share = 0.9,
        weight_decay: NotNegative = 0.0,
    ) -> None:
        given = list(params)
        filters = [weight for weight in given if weight.dim() == 4]
        others = [weight for weight in given if weight.dim() != 4]
        groups: list[dict[str, Any]] = [
            {"params": filters, "lr": lr, "orthogonal": True},
            {"params": others, "lr": others_lr, "orthogonal": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @property
    def step_flop(self) -> float:
        """The floating-point operations of a step's products (a multiply-add is two)."""
        filters = [w for group in self.param_groups if group["orthogonal"] for w in group["params"]]
        sides = [sorted((len(weight), weight.numel() // len(weight))) for weight in filters]
        return float(sum(ITERATIONS * (4 * m * m * n + 2 * m**3) for m, n in sides))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.move(weight, group)
        return loss

    def move(self, weight: Parameter, group: dict[str, Any]) -> None:
        """Move one tensor of weights."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not group["orthogonal"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        speed = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        speed.mul_(group["momentum"]).add_(gradient)
        ahead = gradient.add(speed, alpha=group["momentum"])
        if group["orthogonal"]:
            rows = ahead.reshape(len(weight), -1)
            tall = math.sqrt(max(1.0, len(rows) / rows.shape[1]))
            ahead = orthogonal(rows).view_as(weight) * tall
            ahead.add_(weight, alpha=group["weight_decay"])
        weight.add_(ahead, alpha=-group["lr"])
