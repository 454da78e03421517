"""Callbacks that change how a network is trained; what each adds stands in docs/experiments.md."""

import math
from dataclasses import replace
from typing import Annotated, Any

import lightning as L
import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, unfold
from torch.optim import SGD

from fmnist_lit.constraints import OpenShare, Positive, Share
from fmnist_lit.data.augment import Change
from fmnist_lit.data.loader import BatchLoader, epoch_order
from fmnist_lit.errors import UsageError
from fmnist_lit.models.compute import evaluation_flop, training_flop
from fmnist_lit.optimizers import Muon


def convolution_of_images(model: nn.Module) -> nn.Conv2d:
    """Return a model's first convolution of one channel.

    Raises:
        UsageError: there is none.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 1:
            return layer
    raise UsageError("callbacks: WhitenedStem needs a convolution of the images, and the model has none.")


def all_training_images(trainer: L.Trainer) -> BatchLoader:
    """Return the training images in their fixed order, all of them in each process."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    loader: BatchLoader = data.evaluation_loader("train")
    return replace(loader, rank=0, world_size=1)


def whitening_filters(images: Tensor, side: int, eps: float = 5e-4) -> Tensor:
    """Return the filters whose outputs on images of (n, 1, h, w) are uncorrelated and of deviation 1.

    Returns:
        (side * side, 1, side, side), the direction of the largest variance first.
    """
    patches = unfold(images, side).transpose(1, 2).reshape(-1, side * side).double()
    values, vectors = torch.linalg.eigh(patches.T.cov())
    filters: Tensor = (vectors / (values + eps).sqrt()).T.flip(0)
    return filters.view(-1, 1, side, side).float()


class WhitenedStem(L.Callback):
    """Keeps the first convolution at the whitening filters of the training images, both signs of each.

    Source: Jordan 2024 (94% on CIFAR-10 in 3.29 seconds).
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set it, before the optimizer is made of what moves.

        Raises:
            UsageError: it has not two channels for each pixel of its kernel.
        """
        if stage != "fit":
            return
        images = next(iter(all_training_images(trainer)))[0]
        layer = convolution_of_images(pl_module)
        filters = whitening_filters(images, layer.kernel_size[0])
        if layer.out_channels != 2 * len(filters):
            raise UsageError(
                f"callbacks: WhitenedStem needs {2 * len(filters)} channels in the first convolution, "
                f"two for each pixel of its kernel; it has {layer.out_channels}."
            )
        with torch.no_grad():
            layer.weight.copy_(torch.cat([filters, -filters]))
        layer.weight.requires_grad_(False)


class FastBiases(L.Callback):
    """Moves the biases of batch normalization faster than all else, and leaves its scales at 1.

    Source: Jordan 2024, after Page 2019 (How to train your ResNet). Gradients are multiplied, which under SGD
    is a rate that is as much higher.

    Args:
        factor: of their rate.
    """

    def __init__(self, factor: Positive) -> None:
        self.factor = factor

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Multiply gradients from now on."""
        if stage != "fit":
            return
        for layer in pl_module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.bias.requires_grad:
                layer.weight.requires_grad_(False)
                layer.bias.register_hook(lambda gradient: gradient * self.factor)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what makes every gradient the same size again.

        Raises:
            UsageError: the optimizer does.
        """
        optimizer = trainer.optimizers[0]
        if not isinstance(optimizer, SGD | Muon):
            raise UsageError(
                f"callbacks: FastBiases needs SGD's steps, and {type(optimizer).__name__} sizes them itself. "
                "Choose optim=sgd, nesterov or muon."
            )


class EpochArrangement(L.Callback):
    """Arranges the training images anew at the start of an epoch, and where a stopped run goes on.

    Attributes:
        needs_length: what it does depends on how many epochs there are: no run may be made longer.
    """

    needs_length = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Arrange those of the epoch that goes on."""
        self.arrange(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Arrange those of a new epoch."""
        self.arrange(trainer, pl_module)

    def arrange(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Arrange them, as epoch and seed say."""
        raise NotImplementedError


def training_batches(trainer: L.Trainer) -> BatchLoader:
    """Return what training batches are cut from."""
    batches: BatchLoader = trainer.train_dataloader.batches  # type: ignore[union-attr]
    return batches


def images_of_epoch(trainer: L.Trainer) -> int:
    """Return how many images an epoch trains on: fewer than there are, where its batches are limited."""
    loader: Any = trainer.train_dataloader
    batches = training_batches(trainer)
    limit: int = trainer.num_training_batches * loader.steps_per_execution * batches.batch_size
    return min(len(batches.images), limit)


class AlternatingFlip(EpochArrangement):
    """Mirrors a random half of the images in one epoch and the other half in the next, in turn.

    Each image is seen from both sides in every two epochs; chance shows some one side only (Jordan 2024).
    """

    def __init__(self) -> None:
        self.images: Tensor | None = None  # as they are

    def arrange(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mirror this epoch's half."""
        batches = training_batches(trainer)
        if self.images is None:
            self.images = batches.images
        order = epoch_order(len(self.images), batches.augmentation_seed, epoch=-1)  # of no epoch's batches
        chosen = (order % 2 == trainer.current_epoch % 2).to(self.images.device)
        batches.images = torch.where(chosen.view(-1, 1, 1), self.images.flip(2), self.images)


class LowResolutionFirst(EpochArrangement):
    """Trains on smaller images first: what large shapes tell is learnt for less computation.

    Source: Howard et al. 2018 (fast.ai's entry to DAWNBench; "progressive resizing").

    Args:
        until: share of the epochs that sees small images.
        side: of them, in pixels.
    """

    needs_length = True

    def __init__(self, until: OpenShare, side: Annotated[int, Field(ge=8, le=27)]) -> None:
        self.until, self.side = until, side
        self.changes: tuple[Change, ...] | None = None  # of images of full size
        self.saved = 0.0  # share of an image's computation
        self.further_images = 0.0  # less than none, for all were counted as large

    def arrange(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let each batch be made small, until the epoch that ``until`` says."""
        batches, small = training_batches(trainer), math.ceil(self.until * (trainer.max_epochs or 1))
        images = images_of_epoch(trainer)
        if self.changes is None:
            self.changes, self.saved = tuple(batches.augmentations), self.share_saved(pl_module)
        is_small = trainer.current_epoch < small
        batches.augmentations = (*self.changes, self.shrunk) if is_small else self.changes
        self.further_images = -self.saved * images * min(trainer.current_epoch + 1, small)

    def share_saved(self, pl_module: L.LightningModule) -> float:
        """Return the share of a large image's computation that a small one does not take.

        Raises:
            UsageError: the model takes images of one size alone.
        """
        model: Any = pl_module.model
        try:
            return 1 - training_flop(model, side=self.side) / training_flop(model)
        except RuntimeError as error:
            raise UsageError(
                f"callbacks: LowResolutionFirst needs a model that takes images of {self.side}x{self.side} "
                "pixels, too: model=residual, say."
            ) from error

    def shrunk(self, images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Map images of (n, 28, 28) to (n, side, side), without aliases."""
        sides, whole = (self.side, self.side), images.unsqueeze(1).float()
        small = interpolate(whole, sides, mode="bilinear", align_corners=False, antialias=True)
        return small.squeeze(1), labels


class HardPart(EpochArrangement):
    """Trains on the harder images alone once the others are known.

    An epoch keeps its length: it shows them several times. Source: Jordan 2024 chooses by a smaller network.

    Args:
        after: share of the epochs that comes before.
        easiest: share of the images, those with the smallest losses, that is left out.
        noise: share with the largest losses that is left out: labels that are wrong, as a rule.
    """

    needs_length = True

    def __init__(self, after: OpenShare, easiest: Share, noise: Share = 0.0) -> None:
        if easiest + noise >= 1:
            raise ValueError(f"easiest={easiest} and noise={noise} leave no image.")
        self.after, self.easiest, self.noise = after, easiest, noise
        self.kept: Tensor | None = None
        self.further_images = 0.0  # those evaluated, as many as train for the same computation

    def state_dict(self) -> dict[str, Any]:
        """Return what was chosen."""
        return {"kept": self.kept, "further_images": self.further_images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep to it."""
        vars(self).update(state_dict)

    def planned_images(self, images: int, model: nn.Module) -> float:
        """Return how many images train for the computation of evaluating all."""
        return images * evaluation_flop(model) / training_flop(model)

    def arrange(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the others out, from the epoch on that ``after`` says."""
        if trainer.current_epoch < round(self.after * (trainer.max_epochs or 1)):
            return
        if self.kept is None:
            self.kept = self.choose(trainer, pl_module)
            model: Any = pl_module.model
            self.further_images = self.planned_images(len(training_batches(trainer).images), model)
        training_batches(trainer).pool = self.kept

    @torch.no_grad()
    def choose(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Tensor:
        """Return the places of the images to go on with, by their losses in evaluation mode."""
        pl_module.eval()
        losses = [
            cross_entropy(pl_module(batch[0]), batch[1], reduction="none")
            for batch in all_training_images(trainer)
        ]
        pl_module.train()
        order = torch.cat(losses).argsort(stable=True).cpu()
        kept = order[int(self.easiest * len(order)) : len(order) - int(self.noise * len(order))]
        return kept.sort().values
