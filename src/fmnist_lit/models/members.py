"""Several residual networks in one: each trains on images of its own, and all of them answer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fmnist_lit.constraints import Count, Natural, Positive
from fmnist_lit.models.layers import Activation
from fmnist_lit.models.residual import ResidualCNN


class ResidualMembers(nn.Module):
    """An ensemble within one training: an image of a batch trains one member, so each costs as one network.

    Members that saw different images err in different places, and the mean of their probabilities errs less.
    Source: Kondratyuk et al. 2020 (several small networks beat a large one for the same computation).

    Args:
        members: how many.
        stem: of each, as ``ResidualCNN`` takes it; so are the others.
    """

    def __init__(
        self,
        members: Count,
        stem: Count,
        widths: Sequence[Count],
        blocks: Sequence[Natural],
        activation: Activation = "relu",
        classes: Count = 10,
        logit_scale: Positive = 1.0,
        squeeze: Count | None = None,
        stem_blocks: Natural = 0,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            ResidualCNN(stem, widths, blocks, activation, classes, logit_scale, squeeze, stem_blocks)
            for _ in range(members)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to logits of (n, classes).

        In training the first part of a batch is the first member's, and so on; batches have a random order.
        """
        if self.training:
            parts = images.tensor_split(len(self.members))
            pairs = zip(self.members, parts, strict=True)
            return torch.cat([member(part) for member, part in pairs if len(part)])
        said = torch.stack([member(images).log_softmax(1) for member in self.members])
        return said.logsumexp(0) - math.log(len(self.members))
