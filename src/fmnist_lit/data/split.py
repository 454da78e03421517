"""The stratified split between training and validation images."""

from collections.abc import Callable

import torch

from fmnist_lit.errors import UsageError


def split(
    labels: torch.Tensor, fraction: float, seed: int, folds: int | None = None, fold: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of training and validation images: of a fraction, or of one fold of several.

    Raises:
        UsageError: there is no such fold.
    """
    require_fold(folds, fold)
    return (
        stratified_split(labels, fraction, seed) if folds is None else fold_split(labels, folds, fold, seed)
    )


def require_fold(folds: int | None, fold: int) -> None:
    """Refuse a fold that is none of those that there are.

    Raises:
        UsageError: it is none.
    """
    if folds is None and fold:
        raise UsageError(f"data.fold={fold}: there are no folds. Set data.folds, or leave it out.")
    if folds is not None and fold >= folds:
        raise UsageError(f"data.fold={fold}: of data.folds={folds} there are 0 to {folds - 1}.")


def stratified_split(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices so that each class gives the same fraction, rounded, to the second part.

    Args:
        labels: integers of (n,).
        fraction: of each class that goes into the second part, in [0, 1).

    Returns:
        The indices of both parts, each ascending.
    """
    return split_by_class(labels, seed, lambda members: members[: round(len(members) * fraction)])


def fold_split(labels: torch.Tensor, folds: int, fold: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split indices into ``folds`` parts of the same class shares; one is held out.

    Over all folds each index is held out once.

    Returns:
        The indices of the other parts and of the one held out, each ascending.
    """
    return split_by_class(labels, seed, lambda members: members.tensor_split(folds)[fold])


def split_by_class(
    labels: torch.Tensor, seed: int, held_out_of: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold out what a function takes of each class's indices, which it gets in a random order."""
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        held_out[held_out_of(members[torch.randperm(len(members), generator=generator)])] = True
    return (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)


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
