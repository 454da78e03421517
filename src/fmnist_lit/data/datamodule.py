"""The LightningDataModule: split, device, and a loader for each part."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch

from fmnist_lit.data.augment import Augmentation
from fmnist_lit.data.images import CLASSES, Images
from fmnist_lit.data.loader import Batch, BatchGroups, BatchLoader
from fmnist_lit.data.split import limited, stratified_split
from fmnist_lit.errors import UsageError

GROUP_IMAGES = 1024  # in a group of batches: a tenth of a second of the fastest models


class DataModule(L.LightningDataModule):
    """Training, validation and test batches of one data set that lies whole on the training device.

    Args:
        images: the data set.
        batch_size: images in a training step.
        eval_batch_size: images in an evaluation step.
        val_fraction: of the training images, in [0, 1); 0 means no validation data.
        split_seed: of the split between training and validation.
        normalization: a name in ``loader.NORMALIZATION``.
        watch_test: evaluate the test set after every epoch too.
        limit: keep only this many training images after the split, equal classes.
        seed: of the order of the training images, and of their augmentation.
        limit_train_batches: use only the first so many batches of an epoch.
        augmentation: of the training images; of the validation images while training, if it says so.
        share: of each training batch, as BatchLoader takes it.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        split_seed: int,
        normalization: str,
        watch_test: bool,
        limit: int | None,
        seed: int,
        limit_train_batches: int | None = None,
        augmentation: Augmentation | None = None,
        share: Callable[[int], slice] | None = None,
    ) -> None:
        super().__init__()
        self.images = images
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.normalization, self.watch_test = normalization, watch_test
        self.limit, self.seed = limit, seed
        self.limit_train_batches = limit_train_batches
        self.augmentation = augmentation if augmentation and augmentation.changes_images else None
        self.share = share
        self.parts: dict[str, Batch] = {}

    def setup(self, stage: str | None = None) -> None:
        """Split, and move each part to the training device; once.

        Raises:
            UsageError: a part would have no images.
        """
        if self.parts:
            return
        images = self.images
        train, val = stratified_split(images.train_labels, self.val_fraction, self.split_seed)
        if self.val_fraction and min(len(train), len(val)) < len(CLASSES):
            raise UsageError(
                f"data.val_fraction={self.val_fraction} leaves {len(train)} training and {len(val)} "
                f"validation images of {len(images.train)}; each part needs at least {len(CLASSES)}."
            )
        train = limited(train, images.train_labels, self.limit)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        parts = {
            "train": (images.train[train], images.train_labels[train]),
            "val": (images.train[val], images.train_labels[val]),
            "test": (images.test, images.test_labels),
        }
        self.parts = {
            name: (pixels.to(device), labels.long().to(device))
            for name, (pixels, labels) in parts.items()
            if len(pixels)
        }

    def epoch(self) -> int:
        """Return the trainer's epoch, 0 without a trainer."""
        return self.trainer.current_epoch if self.trainer else 0

    def train_dataloader(self) -> BatchGroups:
        """Return the training batches, about a thousand images at a time."""
        size = max(1, GROUP_IMAGES // self.batch_size)
        return BatchGroups(self.train_batches(), size, self.groups_done)

    def groups_done(self) -> int:
        """Return how many groups of the epoch are behind the trainer: more than none where a run resumes."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0

    def train_batches(self) -> BatchLoader:
        """Return shuffled training batches, another order each epoch."""
        return BatchLoader(
            *self.parts["train"],
            self.batch_size,
            self.normalization,
            shuffle_seed=self.seed,
            epoch=self.epoch,
            limit=self.limit_train_batches,
            augmentation=self.augmentation,
            augmentation_seed=self.seed,
            share=self.share,
        )

    def evaluation_loader(self, part: str, augmentation: Augmentation | None = None) -> BatchLoader:
        """Return a part's batches ("train", "val" or "test") in their fixed order."""
        return BatchLoader(
            *self.parts[part],
            self.eval_batch_size,
            self.normalization,
            epoch=self.epoch,
            augmentation=augmentation,
            augmentation_seed=self.seed + 2**32,  # not the changes of any seed's training images
        )

    def val_dataloader(self) -> dict[str, BatchLoader]:
        """Return what is evaluated after every epoch, by name."""
        watched = ["val", "test"] if self.watch_test else ["val"]
        changed = {"val": self.augmentation} if self.augmentation and self.augmentation.validation else {}
        return {
            part: self.evaluation_loader(part, changed.get(part)) for part in watched if part in self.parts
        }

    def test_dataloader(self) -> dict[str, BatchLoader]:
        """Return what is evaluated at the end, by name: all parts, as they are."""
        return {part: self.evaluation_loader(part) for part in self.parts}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Do nothing: the images already lie on the training device."""
        return batch
