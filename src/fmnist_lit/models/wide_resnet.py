"""The wide residual network."""

from torch import Tensor, nn

from fmnist_lit.constraints import Count

STEM, STAGES = 16, 3  # channels of the first convolution; stages at 28, 14 and 7 pixels


class PreActivation(nn.Module):
    """Adds what two convolutions make of its input to the input; BatchNorm and ReLU come before each.

    Where the shape changes, a convolution of 1x1 changes what is added to.
    Source: He et al. 2016, Identity Mappings in Deep Residual Networks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activated = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        changes = inputs != outputs or stride > 1
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        activated = self.activated(features)
        kept = features if self.shortcut is None else self.shortcut(activated)
        added: Tensor = kept + self.convolutions(activated)
        return added


class WideResNet(nn.Sequential):
    """WRN-depth-widen_factor (Zagoruyko and Komodakis 2016), without dropout.

    Args:
        depth: its convolutions, but for those of the shortcuts: 6n + 4, of n blocks a stage.
        widen_factor: channels of the stages by 16, 32 and 64.
        classes: outputs.

    Raises:
        ValueError: there is no network of that depth.
    """

    def __init__(self, depth: Count, widen_factor: Count, classes: Count = 10) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth={depth} must be 6n + 4: 10, 16, 22, 28, 34, 40, ...")
        layers: list[nn.Module] = [nn.Conv2d(1, STEM, 3, padding=1, bias=False)]
        channels = STEM
        for stage in range(STAGES):
            width = STEM * widen_factor * 2**stage
            for block in range(depth // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(PreActivation(channels, width, stride))
                channels = width
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(channels, classes))
