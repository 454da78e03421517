"""Layers that train in fewer seconds on a CPU and do the same; elsewhere they are the plain ones.

All else, evaluation first of all, is left to PyTorch's own code: a reader of a checkpoint gets its bits.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Multiply-adds from which on oneDNN saves more than calling it from Python costs.
LARGE = 3_000_000
# Channels that fill a vector register; of fewer, PyTorch's loops over channels leave it half empty.
VECTOR = 16
WIDE = 64  # columns that a few channels are spread over
LANES = 4  # numbers of 16 bits in one of 64


def accelerate(layer: nn.Module) -> None:
    """Give a layer the faster code of its kind, if there is one. Parameters and their names stay."""
    for plain, fast in FASTER.items():
        if type(layer) is plain:
            layer.__class__ = fast


def trains_on_cpu(layer: nn.Module, *tensors: Tensor | None) -> bool:
    """Whether a layer is trained in single precision, on a CPU."""
    if not layer.training or torch.is_autocast_enabled("cpu"):
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in given)


def product(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``images @ weight.T + bias`` by oneDNN; tensors of two axes, in any order in memory."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(images, weight, bias, "none", [], "")
    return result


class OneDNNProduct(torch.autograd.Function):
    """A Linear layer by oneDNN, which uses AVX-512 on any processor; PyTorch's MKL only on Intel's."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map (n, features) to (n, outputs)."""
        ctx.save_for_backward(images, weight)
        return product(images, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the gradients of images and bias, where they are wanted, and weight."""
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_images = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return of_images, product(gradient.t(), images.t()), of_bias


class FastLinear(nn.Linear):
    """A Linear layer whose larger products oneDNN computes."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (n, features) to (n, outputs)."""
        # Sizes last: an export to ONNX may not depend on them.
        able = trains_on_cpu(self, input, self.weight) and torch.backends.mkldnn.is_available()
        if not able or input.dim() != 2 or len(input) * self.weight.numel() < LARGE:
            return super().forward(input)
        output: Tensor = OneDNNProduct.apply(input, self.weight, self.bias)
        return output


class FastDropout(nn.Dropout):
    """Dropout that draws 16 random bits an element; PyTorch's way to draw takes 7 times as long.

    The chance is p to within 2^-16. The bits come from PyTorch's generator.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Set elements to zero with chance p and divide the others by 1 - p."""
        limit = round(self.p * 2**16)
        if self.inplace or not 0 < limit < 2**16 or not trains_on_cpu(self, input):
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // LANES), dtype=torch.int64).random_(-(2**63), None)
        kept = torch.empty(input.shape)
        torch.ge(bits.view(torch.int16)[: input.numel()].view(input.shape), limit - 2**15, out=kept)
        return input * kept.mul_(1 / (1 - self.p))


class NarrowNormalization(torch.autograd.Function):
    """Batch normalization (Ioffe and Szegedy 2015) of a few channels, several images' beside each other."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalized feature maps of (n, c, h, w), and the mean and variance of each channel."""
        columns, spread = side_by_side(images)
        ctx.sharing = sharing = same_channel(len(weight), spread)
        mean = columns.mean(0) @ sharing
        centred = columns - mean
        variance = (centred * centred).mean(0) @ sharing
        inverse = (variance + eps).rsqrt()
        factor = weight.expand(spread, -1).reshape(-1) * inverse
        ctx.save_for_backward(centred, factor, inverse)
        mean, variance = mean[: len(weight)], variance[: len(weight)]
        ctx.mark_non_differentiable(mean, variance)
        output = torch.addcmul(bias.expand(spread, -1).reshape(-1), centred, factor)
        return as_maps(output, images.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of images, weight and bias."""
        centred, factor, inverse = ctx.saved_tensors
        channels = gradients[0].shape[1]
        columns, _ = side_by_side(gradients[0].contiguous(memory_format=torch.channels_last))
        of_bias = columns.mean(0) @ ctx.sharing  # means still
        of_weight = (columns * centred).mean(0) @ ctx.sharing * inverse
        of_images = torch.addcmul(-factor * of_bias, columns, factor)
        of_images.addcmul_(centred, -factor * inverse * of_weight)
        count = columns.numel() / channels
        sums = of_weight[:channels] * count, of_bias[:channels] * count
        return as_maps(of_images, gradients[0].shape), *sums, None


def side_by_side(maps: Tensor) -> tuple[Tensor, int]:
    """View (n, c, h, w), channels last in memory, as rows of c times ``spread`` columns; return both."""
    channels = maps.shape[1]
    rows, spread = maps.numel() // channels, WIDE // channels
    while rows % spread:
        spread -= 1
    return maps.permute(0, 2, 3, 1).reshape(-1, channels * spread), spread


@cache
def same_channel(channels: int, spread: int) -> Tensor:
    """Return the matrix that turns columns' means into those of their channels, at each of its columns."""
    return torch.eye(channels).repeat(spread, spread) / spread


def as_maps(columns: Tensor, shape: torch.Size) -> Tensor:
    """View what lay side by side as (n, c, h, w)."""
    n, c, h, w = shape
    return columns.view(n, h, w, c).permute(0, 3, 1, 2)


class NarrowBatchNorm(nn.BatchNorm2d):
    """Batch normalization that is up to nine times faster where channels are few."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (n, c, h, w) over n, h and w; keep running means as the plain layer does."""
        running_mean, running_var, momentum = self.running_mean, self.running_var, self.momentum
        if running_mean is None or running_var is None or momentum is None or not self.is_narrow(input):
            return super().forward(input)
        output, mean, variance = NarrowNormalization.apply(input, self.weight, self.bias, self.eps)
        count = input.numel() / self.num_features
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
        normalized: Tensor = output
        return normalized

    def is_narrow(self, maps: Tensor) -> bool:
        """Whether PyTorch is slow at this, and the faster way can do it."""
        able = self.affine and trains_on_cpu(self, maps, self.weight)
        few = able and self.num_features < VECTOR and maps.numel() > self.num_features
        return few and maps.is_contiguous(memory_format=torch.channels_last)


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FastLinear,
    nn.Dropout: FastDropout,
    nn.BatchNorm2d: NarrowBatchNorm,
}
