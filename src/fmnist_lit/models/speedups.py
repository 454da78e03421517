"""The same network in fewer seconds on a CPU: what ``prepare`` does before a model is trained or asked.

All but training in single precision (and dropout in 16 bits) is left to PyTorch's own code: a reader of a
checkpoint gets its bits.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fmnist_lit.provenance import processor_name

# Multiply-adds from which on oneDNN saves more than calling it from Python costs.
LARGE = 3_000_000
# Channels from which on PyTorch's batch normalization, a loop over channels, fills vector registers.
VECTOR = 8
# Its threads hinder one another where channels are no whole cache lines, up to so many: two take three times
# as long as one, and six times as long as ours.
LINE, FEW = 16, 32
WIDE = 64  # columns that a few channels are spread over
LANES = 4  # numbers of 16 bits in one of 64


def prepare(model: nn.Module) -> nn.Module:
    """Give a model the memory format, the order of layers and the layers that train fastest; return it.

    Values, gradients and the names of parameters stay the same, so a checkpoint fits either way. Layers
    of somebody's own class stay as they are.
    """
    pool_before_activation(model)
    linear = nn.Linear if mkl_is_fast() else Linear
    faster = {nn.Linear: linear, nn.Dropout: Dropout, nn.BatchNorm2d: BatchNorm2d}
    for layer in model.modules():
        layer.__class__ = faster.get(type(layer), type(layer))  # parameters, their names and hooks stay
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
            slope = getattr(layers[i], "negative_slope", 0)
            rises = type(layers[i]) in (nn.ReLU, nn.LeakyReLU) and slope >= 0
            if rises and type(layers[i + 1]) is nn.MaxPool2d:
                layers[i], layers[i + 1] = layers[i + 1], layers[i]


def trains_on_cpu(layer: nn.Module, *tensors: Tensor) -> bool:
    """Whether a layer is trained in single precision, on a CPU."""
    if not layer.training or torch.is_autocast_enabled("cpu"):
        return False
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def refuse_second_derivatives() -> None:
    """Refuse create_graph=True, which would give zeros: a gradient computed by hand has no graph."""
    if torch.is_grad_enabled():  # PyTorch's once_differentiable lets some of them pass
        raise RuntimeError("speedups.prepare: a prepared layer has no second derivative.")


@cache
def mkl_is_fast() -> bool:
    """Whether MKL, which PyTorch's Linear layers use, uses AVX-512 here: on Intel's processors alone."""
    return "intel" in processor_name().lower()


def has_onednn_product() -> bool:
    """Whether this PyTorch has the operator that ``product`` calls, which is not part of its public API."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Return ``images @ weight.T + bias`` by oneDNN; tensors of two axes, in any order in memory."""
    return torch.ops.mkldnn._linear_pointwise(images, weight, bias, "none", [], "")


class OneDNNProduct(torch.autograd.Function):
    """A Linear layer by oneDNN, which uses AVX-512 on any processor."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        """Map (n, features) to (n, outputs)."""
        ctx.save_for_backward(images, weight)
        return product(images, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of images, weight and bias, where they are wanted."""
        refuse_second_derivatives()
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_images = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = product(gradient.t(), images.t()) if ctx.needs_input_grad[1] else None
        of_bias = gradient.sum(0) if ctx.needs_input_grad[2] else None
        return of_images, of_weight, of_bias


class Linear(nn.Linear):
    """A Linear layer whose larger products oneDNN computes."""

    def forward(self, input: Tensor) -> Any:
        """Map (n, features) to (n, outputs)."""
        # Sizes last: an export to ONNX may not depend on them.
        able = trains_on_cpu(self, input, self.weight) and has_onednn_product()
        if not able or input.dim() != 2 or len(input) * self.weight.numel() < LARGE:
            return super().forward(input)
        return OneDNNProduct.apply(input, self.weight, self.bias)


class Dropout(nn.Dropout):
    """Dropout that draws 16 random bits an element; PyTorch's way to draw takes 7 times as long.

    The chance is p to within 2^-16. The bits come from PyTorch's generator.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Set elements to zero with chance p and divide the others by 1 - p."""
        limit = round(self.p * 2**16)
        able = self.training and input.device.type == "cpu" and input.dtype in (torch.float32, torch.bfloat16)
        if self.inplace or not 0 < limit < 2**16 or not able:
            return super().forward(input)
        bits = torch.empty(-(-input.numel() // LANES), dtype=torch.int64).random_(-(2**63), None)
        kept = torch.empty(input.shape, dtype=input.dtype)
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
        ctx.of_columns, ctx.sharing = averaging(len(columns)), same_channel(len(weight), spread)
        mean = ctx.of_columns.mm(columns).mm(ctx.sharing)
        centred = columns - mean
        output = centred * centred  # and later what is returned: memory that the cache holds already
        variance = ctx.of_columns.mm(output).mm(ctx.sharing)
        inverse = (variance + eps).rsqrt_()
        factor = weight.repeat(spread) * inverse
        ctx.save_for_backward(centred, factor, inverse)
        mean, variance = mean[0, : len(weight)], variance[0, : len(weight)]
        ctx.mark_non_differentiable(mean, variance)
        torch.addcmul(bias.repeat(spread), centred, factor, out=output)
        return as_maps(output, images.shape), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of images, weight and bias."""
        refuse_second_derivatives()
        centred, factor, inverse = ctx.saved_tensors
        channels = gradients[0].shape[1]
        columns, _ = side_by_side(gradients[0].contiguous(memory_format=torch.channels_last))
        of_images = columns * centred
        of_weight = ctx.of_columns.mm(of_images).mm(ctx.sharing).mul_(inverse)  # means still
        of_bias = ctx.of_columns.mm(columns).mm(ctx.sharing)
        torch.addcmul(-factor * of_bias, columns, factor, out=of_images)
        of_images.addcmul_(centred, factor * inverse * of_weight, value=-1)
        count = columns.numel() / channels
        sums = of_weight[0, :channels] * count, of_bias[0, :channels] * count
        return as_maps(of_images, gradients[0].shape), *sums, None


def side_by_side(maps: Tensor) -> tuple[Tensor, int]:
    """View (n, c, h, w), channels last in memory, as rows of c times ``spread`` columns; return both."""
    channels = maps.shape[1]
    rows, spread = maps.numel() // channels, WIDE // channels
    while rows % spread:
        spread -= 1
    return maps.permute(0, 2, 3, 1).reshape(-1, channels * spread), spread


@cache
def averaging(rows: int) -> Tensor:
    """Return the matrix of one row that takes the mean of each column: a product is faster than a mean."""
    return torch.full((1, rows), 1 / rows)


@cache
def same_channel(channels: int, spread: int) -> Tensor:
    """Return the matrix that turns columns' means into those of their channels, at each of its columns."""
    return torch.eye(channels).repeat(spread, spread) / spread


def as_maps(columns: Tensor, shape: torch.Size) -> Tensor:
    """View what lay side by side as (n, c, h, w)."""
    n, c, h, w = shape
    return columns.view(n, h, w, c).permute(0, 3, 1, 2)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that is up to nine times faster where channels are few."""

    def forward(self, input: Tensor) -> Any:
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
        return output

    def is_narrow(self, maps: Tensor) -> bool:
        """Whether PyTorch is slow at this, and the faster way can do it."""
        # First: torch.compile cannot ask for threads.
        if not self.affine or not trains_on_cpu(self, maps, self.weight):
            return False
        channels = self.num_features
        few = channels < VECTOR or (channels < FEW and channels % LINE and torch.get_num_threads() > 1)
        if not few or channels == 1:
            return False
        return maps.numel() > channels and maps.is_contiguous(memory_format=torch.channels_last)
