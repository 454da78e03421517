"""The LightningModule of every model: loss, figures, optimizer and schedule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fmnist_lit.data.loader import Batch
from fmnist_lit.ranks.exchange import ALONE, Counts, Ranks
from fmnist_lit.schedules import Schedule

SUMS = ("batch_losses", "losses", "hits")
# What Lightning calls around a step; calling nobody takes it a tenth of a step of a small model.
STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


class Tally:
    """Loss and hits of an epoch, summed in tensors on the device, so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self.images = 0
        # Of single precision, 1,875 losses would be added to four digits only.
        self.batch_losses = torch.zeros((), dtype=torch.float64, device=device)
        self.losses = torch.zeros((), dtype=torch.float64, device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.waiting: list[Counts] = []

    @classmethod
    def of(cls, state: Mapping[str, Any], device: torch.device) -> "Tally":
        """Return the sums that ``state`` holds."""
        tally = cls(device)
        tally.images = state["images"]
        for name in SUMS:
            setattr(tally, name, state[name].to(device))
        return tally

    def state(self) -> dict[str, Any]:
        """Return the sums so far, to be kept."""
        self.settle()
        return {"images": self.images} | {name: getattr(self, name).clone() for name in SUMS}

    def add(self, counts: Counts) -> None:
        """Count one batch: sooner or later, for small operations around a small step are dear."""
        self.waiting.append(counts)

    def settle(self) -> None:
        """Add what waits."""
        if not self.waiting:
            return
        losses, hits, images = zip(*self.waiting, strict=True)
        self.waiting = []
        sizes = [int(number) for number in images]
        means = torch.stack(losses).double()
        self.images += sum(sizes)
        # Not in place: sums that began in inference mode may be read out of it.
        self.batch_losses = self.batch_losses + means.sum()
        # The last batch may be smaller and must weigh less.
        self.losses = self.losses + means @ torch.tensor(sizes, dtype=means.dtype, device=means.device)
        self.hits = self.hits + torch.stack(hits).sum()

    def add_up(self, ranks: Ranks) -> None:
        """Count what all ranks have counted."""
        self.settle()
        sums = [getattr(self, name).double() for name in SUMS]
        sums = list(ranks.add_up(torch.stack([*sums, torch.full_like(sums[0], self.images)])))
        self.images = int(sums.pop())
        for name, total in zip(SUMS, sums, strict=True):
            getattr(self, name).copy_(total)

    def figures(self) -> dict[str, float]:
        """Return ``loss`` (mean over images), ``accuracy`` and ``loss_sum`` (over batches)."""
        self.settle()
        images = max(self.images, 1)
        return {
            "loss": self.losses.item() / images,
            "accuracy": self.hits.item() / images,
            "loss_sum": self.batch_losses.item(),
        }


def part_names(loaders: Any) -> list[str]:
    """Return the parts ("val", "test") whose loaders Lightning goes through, in its order."""
    assert isinstance(loaders, dict), "the data module names each loader"
    return list(loaders)


class Classifier(L.LightningModule):
    """Trains and evaluates a network with cross-entropy on its output.

    Args:
        model: maps images of (n, 1, 28, 28) to (n, 10).
        optimizer: makes the optimizer of some parameters.
        schedule: makes the schedule of an optimizer and the number of steps of the run.
        gradient_clip_val: largest norm of a step's gradients; None means no limit.
        label_smoothing: of the loss that is trained on; what is counted is the plain cross-entropy.
        weight_averaging: share that an exponential moving average of the weights keeps in each step; the
            average is what is evaluated and stored as the model. None means no average.
        mirror_test: test once more with the mean output of each image and its mirror image, counted apart.
        ranks: that train together; each gets its share of every batch.

    A training step of Lightning is a group of ours: several batches, an optimizer's step for each.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer, int], Schedule],
        gradient_clip_val: float | None = None,
        label_smoothing: float = 0.0,
        weight_averaging: float | None = None,
        mirror_test: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.mirror_test = mirror_test
        self.label_smoothing = label_smoothing
        self.automatic_optimization = False
        self.gradient_clip_val = gradient_clip_val
        self.schedule: Schedule = None
        self.model = model
        self.averaged: AveragedModel | None = None
        if weight_averaging is not None:
            average = get_ema_multi_avg_fn(weight_averaging)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.tallies: dict[str, Tally] = {}  # by part: "train", "val", "test"
        self.needs_lightning = True  # around a step: to scale a loss, or to call a callback
        self.group: list[tuple[Tensor, float]] = []  # loss and rate of each step of the last group
        self.test_outputs: list[Tensor] = []  # of the test set, at the end of the run

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to the model's output of (n, 10)."""
        output: Tensor = self.model(images)
        return output

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        optimizer = self.make_optimizer(self.model.parameters())
        self.trainer.fit_loop.setup_data()  # the loader says how many steps there will be
        groups: Any = self.trainer.train_dataloader
        self.schedule = self.make_schedule(optimizer, len(groups.loader) * (self.trainer.max_epochs or 1))
        if self.schedule is None:
            return optimizer
        # When to step is our business: Lightning knows no steps, only groups of them.
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule["scheduler"]}}

    def compute(self, batch: Batch, mirrored: bool = False) -> tuple[Tensor, Tensor, Counts]:
        """Return loss, output and counts of one batch: the one step of all parts."""
        images, labels = batch
        images = images.to(self.dtype)  # float64 with trainer.precision=64-true
        model = self.model if self.training or self.averaged is None else self.averaged
        output = model(images)
        if mirrored:
            output = (output + model(images.flip(3))) / 2
        loss = cross_entropy(output, labels)
        return loss, output, Counts(loss.detach(), (output.argmax(1) == labels).sum(), len(labels))

    def evaluate(self, batch: Batch, part: str, mirrored: bool = False) -> Tensor:
        """Count a batch without mixed precision: any reader of the checkpoint gets the same figures."""
        with torch.autocast(self.device.type, enabled=False):
            _, output, counts = self.compute(batch, mirrored)
        self.tallies[part].add(counts)
        return output

    def start(self, parts: Iterable[str]) -> None:
        """Start to count anew."""
        self.tallies.update({part: Tally(self.device) for part in parts})

    def add_up(self, parts: Iterable[str]) -> None:
        """Let every rank know what all have counted."""
        if self.ranks.count > 1:
            for part in parts:
                self.tallies[part].add_up(self.ranks)

    def on_train_start(self) -> None:
        """Ask whether Lightning has anything to do around a step: for scaled losses, or for a callback."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        self.needs_lightning = getattr(self.trainer.precision_plugin, "scaler", None) is not None or any(
            getattr(type(callback), hook) is not getattr(L.Callback, hook)
            for callback in callbacks
            for hook in STEP_HOOKS
        )

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self.start(["train"])

    def training_step(self, group: Iterable[Batch], batch_idx: int) -> None:
        """Take an optimizer's step for each batch of a group."""
        wrapped: Any = self.optimizers()
        optimizer = wrapped if self.needs_lightning else wrapped.optimizer
        weights = [weight for settings in optimizer.param_groups for weight in settings["params"]]
        scheduler = (
            self.schedule["scheduler"] if self.schedule and self.schedule["interval"] == "step" else None
        )
        self.group = []
        for batch in group:
            for weight in weights:
                weight.grad = None
            counts = self.backward_pass(batch)
            if self.ranks.count > 1:
                counts = self.ranks.average(self.model, counts)
            self.tallies["train"].add(counts)
            self.group.append((counts.loss, optimizer.param_groups[0]["lr"]))
            if self.gradient_clip_val:
                # Lightning's own refuses fused optimizers under bf16-mixed, where nothing is scaled.
                clip_grad_norm_(self.model.parameters(), self.gradient_clip_val)
            optimizer.step()
            if self.averaged:
                self.averaged.update_parameters(self.model)
            if scheduler:
                scheduler.step()
        self.tallies["train"].settle()
        if not self.needs_lightning:
            progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
            progress.increment_by(len(self.group))

    def backward_pass(self, batch: Batch) -> Counts:
        """Compute the gradients of one batch; return its counts."""
        labels = batch[1]
        if not len(labels):  # of a last batch that has fewer images than there are ranks
            return Counts(torch.zeros((), device=self.device), torch.zeros((), device=self.device), 0)
        loss, output, counts = self.compute(batch)
        if self.label_smoothing:
            loss = cross_entropy(output, labels, label_smoothing=self.label_smoothing)
        if self.needs_lightning:
            self.manual_backward(loss)
        else:
            loss.backward()
        return counts

    def on_train_epoch_end(self) -> None:
        """Let a schedule that looks at an epoch's figures see them."""
        if self.schedule and self.schedule["interval"] == "epoch":
            self.schedule["scheduler"].step(self.trainer.callback_metrics[self.schedule["monitor"]])

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's sums."""
        self.start(part_names(self.trainer.val_dataloaders))

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch of the part whose loader gave it, if it is this rank's turn.

        Ranks take whole batches, so that every image's output has the bits that one process gives it.
        """
        if batch_idx % self.ranks.count == self.ranks.rank:
            self.evaluate(batch, part_names(self.trainer.val_dataloaders)[dataloader_idx])

    def on_validation_epoch_end(self) -> None:
        """Give callbacks and schedules the figures that they may monitor: of the validation data alone."""
        self.add_up(part_names(self.trainer.val_dataloaders))
        if "val" in part_names(self.trainer.val_dataloaders):
            figures = self.tallies["val"].figures()
            self.log("val_loss", figures["loss"], logger=False)
            self.log("val_accuracy", figures["accuracy"], logger=False)

    def on_test_epoch_start(self) -> None:
        """Forget the last sums."""
        self.start(part_names(self.trainer.test_dataloaders))
        if self.mirror_test:
            self.start(["test_mirrored"])
        self.test_outputs = []

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch of the part whose loader gave it; keep what the model says of the test set."""
        if batch_idx % self.ranks.count != self.ranks.rank:
            return
        part = part_names(self.trainer.test_dataloaders)[dataloader_idx]
        output = self.evaluate(batch, part)
        if part == "test":
            self.test_outputs.append(output)
            if self.mirror_test:
                self.evaluate(batch, "test_mirrored", mirrored=True)

    def on_test_epoch_end(self) -> None:
        """Put together what the ranks have."""
        if self.ranks.count == 1:
            return
        parts = part_names(self.trainer.test_dataloaders)
        self.add_up([*parts, "test_mirrored"] if self.mirror_test else parts)
        outputs = self.ranks.gather([output.cpu() for output in self.test_outputs])
        batches = sum(map(len, outputs))
        self.test_outputs = [outputs[i % self.ranks.count][i // self.ranks.count] for i in range(batches)]
