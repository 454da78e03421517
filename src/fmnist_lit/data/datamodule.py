"""The LightningDataModule: split, device, and a loader for each split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import lightning as L
import torch
from pydantic import Field

from fmnist_lit.constraints import Count, Natural, Seed, Share
from fmnist_lit.data.augment import Change
from fmnist_lit.data.dataset import Images
from fmnist_lit.data.loader import Batch, BatchLoader, TrainLoader
from fmnist_lit.data.split import limited, split
from fmnist_lit.errors import UsageError


@dataclass(eq=False, repr=False)
class DataModule(L.LightningDataModule):
    """Training, validation and test batches of one data set that lies whole on the training device.

    Args:
        images: the data set.
        batch_size: images in a training step.
        eval_batch_size: images in an evaluation step.
        val_fraction: of the training images, in [0, 1); 0 means no validation data.
        split_seed: of the split between training and validation.
        normalization: "standard" (zero mean, unit deviation), "unit" ([0, 1]) or "none" (0 to 255).
        log_test_every_epoch: evaluate the test set after every epoch too; nothing is selected by it.
        train_subset: keep only this many training images after the split, equal classes.
        folds: of a cross-validation, which takes the place of ``val_fraction``; None: none.
        fold: which of them is validated on, from 0.
        augment_validation: change the validation images too while training, anew each epoch.
        seed: of the order of the training images, and of their augmentation.
        augmentations: of the training images.
        steps_per_execution: training batches handed out at once.
        rank: of this process among those that train together.
        world_size: of them.
    """

    images: Images
    batch_size: Count
    eval_batch_size: Count
    val_fraction: Share
    split_seed: Seed
    normalization: Literal["standard", "unit", "none"]
    log_test_every_epoch: bool = False
    train_subset: Annotated[int, Field(ge=10, multiple_of=10)] | None = None
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    fold: Natural = 0
    augment_validation: bool = False
    seed: int = 0
    augmentations: Sequence[Change] = ()
    steps_per_execution: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        super().__init__()
        self.splits: dict[str, Batch] = {}
        self.loader: TrainLoader | None = None
        self.place = {"handed_out": 0}  # in the epoch, of a run that goes on

    def setup(self, stage: str | None = None) -> None:
        """Split, and move each split to the training device; once.

        Raises:
            UsageError: a split would have no images.
        """
        if self.splits:
            return
        images = self.images
        train, val = split(images.train_labels, self.val_fraction, self.split_seed, self.folds, self.fold)
        least = len(images.classes)
        wanted = f"data.folds={self.folds}" if self.folds else f"data.val_fraction={self.val_fraction}"
        if (self.folds or self.val_fraction) and min(len(train), len(val)) < least:
            raise UsageError(
                f"{wanted} leaves {len(train)} training and {len(val)} "
                f"validation images of {len(images.train)}; each split needs at least {least}."
            )
        train = limited(train, images.train_labels, self.train_subset)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        splits = {
            "train": (images.train[train], images.train_labels[train]),
            "val": (images.train[val], images.train_labels[val]),
            "test": (images.test, images.test_labels),
        }
        self.splits = {
            name: (pixels.to(device), labels.long().to(device))
            for name, (pixels, labels) in splits.items()
            if len(pixels)
        }

    def batches(self, split: str, batch_size: int, **others: Any) -> BatchLoader:
        """Return a split's batches, by the facts that all splits share."""
        return BatchLoader(
            *self.splits[split],
            batch_size,
            self.normalization,
            epoch=lambda: self.trainer.current_epoch if self.trainer else 0,
            rank=self.rank,
            world_size=self.world_size,
            statistics=self.images.statistics,
            **others,
        )

    def train_dataloader(self) -> TrainLoader:
        """Return shuffled training batches, another order each epoch."""
        # Lightning: the same batches each epoch.
        fixed = bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]
        batches = self.batches(
            "train",
            self.batch_size,
            shuffle_seed=None if fixed else self.seed,
            augmentations=self.augmentations,
            augmentation_seed=self.seed,
        )
        self.loader = TrainLoader(batches, self.steps_per_execution)
        self.loader.load_state_dict(self.place)
        self.place = {"handed_out": 0}
        return self.loader

    def state_dict(self) -> dict[str, int]:
        """Return the place in the epoch for Lightning's checkpoints; after its end, the next one's.

        The end may come before the loader's, as with ``trainer.limit_train_batches``.
        """
        if self.trainer and self.trainer.is_last_batch:
            return {"handed_out": 0}
        return self.place if self.loader is None else self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Let the next training loader begin there.

        Lightning keeps a loader's place too, but forgets it where a schedule has asked for the steps.
        """
        self.place = state_dict

    def evaluation_loader(self, split: str, augmentations: Sequence[Change] = ()) -> BatchLoader:
        """Return a split's batches ("train", "val" or "test") in their fixed order."""
        seed = self.seed + 2**32  # not the changes of any seed's training images
        return self.batches(split, self.eval_batch_size, augmentations=augmentations, augmentation_seed=seed)

    def val_dataloader(self) -> dict[str, BatchLoader]:
        """Return what is evaluated after every epoch, by name."""
        watched = {"val": self.augmentations if self.augment_validation else ()}
        if self.log_test_every_epoch:
            watched["test"] = ()
        return {name: self.evaluation_loader(name, watched[name]) for name in watched if name in self.splits}

    def test_dataloader(self) -> dict[str, BatchLoader]:
        """Return what is evaluated at the end, by name: all splits, as they are."""
        return {name: self.evaluation_loader(name) for name in self.splits}

    def predict_dataloader(self) -> BatchLoader:
        """Return the test images, for ``Trainer.predict``."""
        return self.evaluation_loader("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Do nothing: the images already lie on the training device."""
        return batch
