"""The stratified split between training and validation images."""

import torch

from fmnist_lit.errors import UsageError


def split(
    labels: torch.Tensor, fraction: float, seed: int, folds: int | None = None, fold: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of training and validation images: of a fraction, or of one fold of several.

    Raises:
        UsageError: there is no such fold.
    """
    if folds is None:
        return stratified_split(labels, fraction, seed)
    if fold >= folds:
        raise UsageError(f"data.fold={fold}: of data.folds={folds} there are 0 to {folds - 1}.")
    return fold_split(labels, folds, fold, seed)


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


def fold_split(labels: torch.Tensor, folds: int, fold: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices into ``folds`` parts of the same class shares; one is held out.

    Over all folds each index is held out once.

    Returns:
        The indices of the other parts and of the one held out, each ascending.
    """
    generator = torch.Generator().manual_seed(seed)
    held_out = []
    for label in labels.unique():
        members = torch.nonzero(labels == label).squeeze(1)
        held_out.append(members[torch.randperm(len(members), generator=generator)].tensor_split(folds)[fold])
    chosen = torch.cat(held_out).sort().values
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[chosen] = False
    return kept.nonzero().squeeze(1), chosen


def limited(indices: torch.Tensor, labels: torch.Tensor, limit: int | None) -> torch.Tensor:
    """Keep the first ``limit`` of the indices, equally many of each class; all of them without a limit.

    Args:
        indices: of the training images, (n,).
        labels: of all images that the indices point into.

    Raises:
        UsageError: there are fewer than ``limit``, or it cannot be shared by the classes.
    """
    if limit is None:
        return indices
    if limit > len(indices):
        raise UsageError(f"data.train_subset={limit}: there are only {len(indices)} training images.")
    classes = labels.unique()
    each, left = divmod(limit, len(classes))
    if left:
        raise UsageError(f"data.train_subset={limit}: it must be a multiple of {len(classes)}, the classes.")
    of_class = [indices[labels[indices] == label] for label in classes]
    fewest = min(map(len, of_class))
    if each > fewest:
        raise UsageError(f"data.train_subset={limit}: a class has only {fewest} training images.")
    return torch.cat([members[:each] for members in of_class]).sort().values
