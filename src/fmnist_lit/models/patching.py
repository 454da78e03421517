"""How an MLP sees an image: whole, or as patches (report five_models, "patching").

Each module turns images of (n, 1, 28, 28) into rows of ``features`` numbers: (n, features), or
(n, patches, features) where the network is to run on every patch by itself.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from fmnist_lit.constraints import Count

SIDE = 28
PatchSize = Literal[2, 4, 7, 14]  # pixels along an edge


def patchify(images: Tensor, size: int) -> Tensor:
    """Cut (n, 1, 28, 28) into (n, patches, size * size), patches and their pixels row by row."""
    assert SIDE % size == 0, f"patches of {size} pixels do not fill an image"
    patches = images.unfold(2, size, size).unfold(3, size, size)
    return patches.reshape(-1, (SIDE // size) ** 2, size * size)  # -1: a trace keeps no batch size


class NoPatching(nn.Flatten):
    """No patches: (n, 784), row by row."""

    only_reshapes = True
    features = SIDE * SIDE

    def __init__(self, size: None = None) -> None:
        super().__init__()


class ConcatPatches(nn.Module):
    """Patches side by side: (n, 784), a permutation of the pixels, which an MLP cannot notice."""

    only_reshapes = True

    def __init__(self, size: PatchSize) -> None:
        super().__init__()
        self.size, self.features = size, SIDE * SIDE

    def forward(self, images: Tensor) -> Tensor:
        """Cut and flatten."""
        return patchify(images, self.size).flatten(1)


class SharedMLP(nn.Module):
    """Each patch for itself: (n, patches, size * size); the MLP averages its features over them."""

    only_reshapes = True

    def __init__(self, size: PatchSize) -> None:
        super().__init__()
        self.size, self.features = size, size * size

    def forward(self, images: Tensor) -> Tensor:
        """Cut."""
        return patchify(images, self.size)


class PatchEmbedding(nn.Module):
    """One Linear layer for all patches, results side by side: (n, patches * dim)."""

    def __init__(self, size: PatchSize, dim: Count) -> None:
        super().__init__()
        self.size, self.features = size, (SIDE // size) ** 2 * dim
        self.embedding = nn.Linear(size * size, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Cut, embed and flatten."""
        embedded: torch.Tensor = self.embedding(patchify(images, self.size))
        return embedded.flatten(1)
