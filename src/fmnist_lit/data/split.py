"""The stratified split between training and validation images."""

import torch


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
