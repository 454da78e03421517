"""The same function in fewer seconds: how a model is prepared before it is trained or asked."""

from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU)
POOLINGS = (nn.MaxPool2d, nn.AvgPool2d)
# From this size on oneDNN's matrix products outweigh that it copies a weight into its own order each time.
WIDE, LARGE = 100_000, 128  # weights of a layer, images of a batch
CHUNK = 32  # images whose feature maps of 32 channels at 28x28 fit a core's cache


def prepare(model: nn.Module) -> nn.Module:
    """Give a model the memory format and the order of layers that run fastest; return it.

    Values, gradients and the names of parameters stay the same, so a checkpoint fits either way.
    """
    pool_before_activation(model)
    for layer in model.modules():
        if type(layer) is nn.Linear and layer.weight.numel() >= WIDE and torch.backends.mkldnn.is_available():
            layer.__class__ = WideLinear
    if hasattr(model, "chunk"):
        model.chunk = CHUNK  # type: ignore[assignment]
    # On a CPU convolutions and pooling are vectorized over channels only in this format.
    return model.to(memory_format=torch.channels_last)


class OneDNNProduct(torch.autograd.Function):
    """A Linear layer by oneDNN, which uses AVX-512 on any processor; PyTorch's MKL only on Intel's."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map (n, features) to (n, outputs)."""
        ctx.save_for_backward(images, weight)
        ctx.has_bias = bias is not None
        output: Tensor = torch.ops.aten.mkldnn_linear(images.to_mkldnn(), weight, bias).to_dense()
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the gradients of images, where they are wanted, weight and bias."""
        images, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous().to_mkldnn()
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = torch.ops.aten.mkldnn_linear_backward_input(images.shape, gradient, weight).to_dense()
        of_weight, of_bias = torch.ops.aten.mkldnn_linear_backward_weights(
            gradient, images.to_mkldnn(), weight, ctx.has_bias
        )
        return of_images, dense(of_weight), dense(of_bias) if ctx.has_bias else None


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor in PyTorch's own order."""
    return tensor.to_dense() if tensor.is_mkldnn else tensor


class WideLinear(nn.Linear):
    """A Linear layer that trains large batches faster on a CPU; the same function."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (n, features) to (n, outputs)."""
        if not self.training or input.dim() != 2 or len(input) < LARGE or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        if input.device.type != "cpu" or not self.weight.dtype == input.dtype == torch.float32:
            return super().forward(input)
        output: Tensor = OneDNNProduct.apply(input, self.weight, self.bias)
        return output


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


def in_chunks(layers: nn.Sequential, images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Apply layers to a batch; the first ones, as far as they treat each image by itself, in parts.

    The large feature maps before the first pooling then never leave the cache of a CPU.

    Args:
        size: images in a part; None means the whole batch.
    """
    if size is None or len(images) <= size or images.device.type != "cpu":
        return run_layers(layers, images)
    alone = by_itself(layers)
    if not any(isinstance(layer, POOLINGS) for layer in layers[:alone]):
        return run_layers(layers, images)
    parts = [layers[:alone](part) for part in images.split(size)]
    return run_layers(layers[alone:], torch.cat(parts))


def run_layers(layers: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    """Apply layers to a whole batch."""
    output: torch.Tensor = layers(images)
    return output


def by_itself(layers: nn.Sequential) -> int:
    """Count the leading layers that treat each image by itself and draw no random numbers."""
    kinds = (nn.Conv2d, *ACTIVATIONS, *POOLINGS) if layers.training else nn.Module
    return next((i for i, layer in enumerate(layers) if not isinstance(layer, kinds)), len(layers))
