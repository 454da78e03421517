"""Equal blocks of convolution and pooling, filters doubling (report grid_search)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fmnist_lit.constraints import Count, NotNegative, Positive, Share
from fmnist_lit.models.cnn import CNN
from fmnist_lit.models.layers import Activation, activation_layer

SIDE = 28


class BlockCNN(CNN):
    """Blocks of [convolution, BatchNorm, max pooling, activation, dropout], then one Linear layer.

    Source: report grid_search; its final CNN is 128, 256 and 512 filters with 1,560,330 parameters. Pooling
    rounds up (28, 14, 7, 4, 2), as Keras's 'same' does.

    Args:
        filters: of the first block; each further block has twice as many.
        depth: number of blocks.
        kernel: side of the convolutions; the report mentions 5 as a further try.
        batch_norm: whether there is a BatchNorm in each block.
        dropout: after each block.
        bn_momentum: weight of a new batch in BatchNorm's running statistics (Keras: one minus its momentum).
        classes: outputs.
    """

    def __init__(
        self,
        filters: Count,
        depth: Annotated[int, Field(ge=1, le=5)],
        kernel: Literal[3, 5, 7] = 3,
        batch_norm: bool = True,
        dropout: Share = 0.0,
        activation: Activation = "relu",
        negative_slope: NotNegative = 0.01,
        bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1,
        bn_eps: Positive = 1e-5,
        classes: Count = 10,
    ) -> None:
        layers: list[nn.Module] = []
        channels, side = 1, SIDE
        for block in range(depth):
            width = filters * 2**block
            layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum))
            layers += [nn.MaxPool2d(2, ceil_mode=True), activation_layer(activation, negative_slope)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            channels, side = width, -(-side // 2)
        super().__init__(layers, [channels * side * side], classes)
