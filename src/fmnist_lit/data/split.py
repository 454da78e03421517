"""The stratified split between training and validation images."""

import torch

from fmnist_lit.data.images import CLASSES
from fmnist_lit.errors import UsageError


def stratified_split(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices so that each class gives the same fraction, rounded, to the second part.

    Args:
        labels: integers of (n,).
        fraction: of each class that goes into the second part, in [0, 1).

    Returns:
        The indices of both parts, each ascending.
    """
    generator = torch.Generator().manual_seed(seed)
    kept, held_out = [], []
    for label in labels.unique():
        members = torch.nonzero(labels == label).squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        cut = round(len(members) * fraction)
        held_out.append(members[:cut])
        kept.append(members[cut:])
    return torch.cat(kept).sort().values, torch.cat(held_out).sort().values


def limited(indices: torch.Tensor, labels: torch.Tensor, limit: int | None) -> torch.Tensor:
    """Keep the first ``limit`` of the indices, equally many of each class; all of them without a limit.

    Args:
        indices: of the training images, (n,).
        labels: of all images that the indices point into.

    Raises:
        UsageError: there are fewer than ``limit``.
    """
    if limit is None:
        return indices
    if limit > len(indices):
        raise UsageError(f"data.limit={limit}: there are only {len(indices)} training images.")
    each = limit // len(CLASSES)
    of_class = (indices[labels[indices] == label] for label in range(len(CLASSES)))
    return torch.cat([members[:each] for members in of_class]).sort().values
