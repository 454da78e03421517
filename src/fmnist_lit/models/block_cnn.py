"""Equal blocks of convolution and pooling, filters doubling (report grid_search)."""

from torch import nn

from fmnist_lit.models import CLASSES
from fmnist_lit.models.activations import activation_layer
from fmnist_lit.models.cnn import CNN

SIDE = 28


class BlockCNN(CNN):
    """Blocks of [convolution 3x3, BatchNorm, max pooling, activation, dropout], then one Linear layer.

    Source: report grid_search; its final CNN is 128, 256 and 512 filters with 1,560,330 parameters. Pooling
    rounds up (28, 14, 7, 4, 2), as Keras's 'same' does.

    Args:
        filters: of the first block; each further block has twice as many.
        depth: number of blocks.
        batch_norm: whether there is a BatchNorm in each block.
        dropout: after each block.
        bn_momentum: weight of a new batch in BatchNorm's running statistics (Keras: one minus its momentum).
    """

    def __init__(
        self,
        filters: int,
        depth: int,
        batch_norm: bool = True,
        dropout: float = 0.0,
        activation: str = "relu",
        negative_slope: float = 0.01,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-5,
    ) -> None:
        layers: list[nn.Module] = []
        channels, side = 1, SIDE
        for block in range(depth):
            width = filters * 2**block
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width, eps=bn_eps, momentum=bn_momentum))
            layers += [nn.MaxPool2d(2, ceil_mode=True), activation_layer(activation, negative_slope)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            channels, side = width, -(-side // 2)
        super().__init__(nn.Sequential(*layers), nn.Sequential(nn.Linear(channels * side * side, CLASSES)))
