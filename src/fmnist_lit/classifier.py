"""The LightningModule of every model: step, metrics, optimizer and schedule."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import lightning as L
import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric, MetricCollection

from fmnist_lit.averages import MovingAverage
from fmnist_lit.callbacks import monitors
from fmnist_lit.checkpoints import diverged
from fmnist_lit.data.loader import Batch, Shard
from fmnist_lit.distributed import gathered, share_buffers
from fmnist_lit.metrics import split_metrics
from fmnist_lit.schedules import Schedule, as_lightning, require_logged

FLIPPED = "test_flipped"  # the test set, asked with each image and its mirror image


class Answer(NamedTuple):
    """What a network says of a batch, or of a process's share of one."""

    output: Tensor  # (n, classes)
    labels: Tensor  # (n,)
    loss: Tensor  # the mean, without smoothing
    share: float = 1.0  # of the batch


def split_names(loaders: Any) -> list[str]:
    """Return the splits ("val", "test") whose loaders Lightning goes through, in its order."""
    assert isinstance(loaders, dict), "the data module names each loader"
    return list(loaders)


class Classifier(L.LightningModule):
    """Trains and evaluates a network with cross-entropy on its output.

    Args:
        model: maps images of (n, 1, 28, 28) to (n, outputs).
        optimizer: makes the optimizer of some parameters.
        schedule: makes the schedule of an optimizer and the number of steps of the run: one of PyTorch's,
            Lightning's dictionary of one, or None.
        metrics: further ones, by name, each with ``update(preds, target)``.
        label_smoothing: of the loss that is trained on; what is counted is the plain cross-entropy.
        ema_decay: share that an exponential moving average of the weights keeps in each step, less in the
            first ones (``MovingAverage``); the average is what is evaluated and stored as the model. None
            means no average.
        tta_flip: test once more with the mean output of each image and its mirror image, counted apart.
        classes: their names, which a checkpoint keeps.
        outputs: of the model, at least as many.
        about: lines to print before it is trained.
        still: layers in evaluation mode always: parts of the model that are not trained.
        steps_per_execution: batches of a call of ``training_step``, each with an optimizer's step of its own
            (Keras's name). 1 is Lightning's automatic optimization; more is the same bits in less time.
        compiled: train what torch.compile makes of the model; it is evaluated as it is.
        gradient_clip_val: of the Trainer, which does not clip itself.
        gradient_clip_algorithm: "norm" or "value", likewise.
        log_test: whether loggers get the metrics of a test, under the names that an epoch's have.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        schedule: Callable[[Optimizer, int], Schedule | LRScheduler],
        metrics: Mapping[str, Metric] | None = None,
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        tta_flip: bool = False,
        classes: Sequence[str] = (),
        outputs: int = 10,
        about: Sequence[str] = (),
        still: Sequence[nn.Module] = (),
        steps_per_execution: int = 1,
        compiled: bool = False,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        log_test: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer, self.make_schedule = optimizer, schedule
        self.classes, self.outputs, self.about = tuple(classes), outputs, tuple(about)
        self.still = list(still)
        self.label_smoothing, self.tta_flip = label_smoothing, tta_flip
        self.steps_per_execution = steps_per_execution
        self.automatic_optimization = steps_per_execution == 1
        self.compiled: Callable[[Tensor], Tensor] | None = None
        if compiled:  # a function: what is made of a module would be a second name of its weights
            # Sizes are fixed: a last batch that is smaller is compiled apart, and the others stay as fast.
            self.compiled = torch.compile(lambda images: model(images), dynamic=False)
        self.clip_val, self.log_test = gradient_clip_val, log_test
        self.clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
        self.schedule: Schedule = None
        self.validated = self.logged = False  # this epoch; its training
        self.averaged = None if ema_decay is None else MovingAverage(model, ema_decay)
        splits = ("train", "val", "test", FLIPPED)
        # The underscore: a module's own names, "train" among them, are no keys.
        self.metrics = nn.ModuleDict({f"{split}_": split_metrics(split, metrics or {}) for split in splits})
        self.train()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. Lightning notes twelve texts in each step, which are no parts of a module."""
        if isinstance(value, str):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, but for the layers that stay still."""
        super().train(mode)
        for layer in self.still:
            layer.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Map images of (n, 1, 28, 28) to (n, classes), by the average of the weights if there is one."""
        network = self.model if self.training or self.averaged is None else self.averaged
        asked = self.compiled if self.training and self.compiled else network
        output: Tensor = asked(images.to(self.dtype))  # float64 with trainer.precision=64-true
        return output

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])
        steps = self.trainer.estimated_stepping_batches
        if not self.automatic_optimization:  # Lightning counts calls, not steps
            loader: Any = self.trainer.train_dataloader
            steps = len(loader.batches) * (self.trainer.max_epochs or 1)
        self.schedule = as_lightning(self.make_schedule(optimizer, int(steps)))
        if self.schedule is None:
            return optimizer
        # Between several steps at once Lightning steps no schedule.
        told = self.schedule if self.automatic_optimization else {"scheduler": self.schedule["scheduler"]}
        return {"optimizer": optimizer, "lr_scheduler": told}

    # Training

    def answer(self, batch: Batch | Shard) -> tuple[Tensor, Answer]:
        """Return the loss to train on and what to count."""
        images, labels = batch[0], batch[1]
        share = len(labels) / batch.batch_size if isinstance(batch, Shard) else 1.0
        output = self(images)
        if not len(labels):  # the share of a last batch that has fewer images than there are processes
            nothing = output.sum() + sum(weight.sum() * 0 for weight in self.model.parameters())
            return nothing, Answer(output.detach(), labels, torch.zeros((), device=self.device), share)
        loss = cross_entropy(output, labels)
        hard = labels if labels.dim() == 1 else labels.argmax(1)  # of mixed images, the larger part
        counted = Answer(output.detach(), hard, loss.detach(), share)
        if self.label_smoothing:
            loss = cross_entropy(output, labels, label_smoothing=self.label_smoothing)
        if isinstance(batch, Shard):  # gradients are averaged over processes, whose shares are not equal
            loss = loss * (share * self.trainer.world_size)
        return loss, counted

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Return a batch's loss; of several batches, take a step for each.

        Raises:
            Diverged: a loss is no number.
        """
        before, optimizer = self.trainer.global_step, cast(Any, self.optimizers())
        loss = None
        if self.automatic_optimization:
            loss, counted = self.answer(batch)
            steps = [(counted, optimizer.param_groups[0]["lr"])]
        else:
            mixed = torch.is_autocast_enabled(self.device.type)
            steps = [self.manual_step(one, optimizer, mixed) for one in batch]
        losses = self.count("train", [counted for counted, _ in steps])
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise diverged(
                f"the training loss is {losses[first].item()} at step {before + first + 1} "
                f"(epoch {self.current_epoch + 1}, learning rate {steps[first][1]:g})",
                Path(self.trainer.default_root_dir),
            )
        return loss

    def manual_step(self, batch: Batch, optimizer: Any, mixed: bool) -> tuple[Answer, float]:
        """Take an optimizer's step, in mixed precision or not; return what to count, and the rate."""
        groups = optimizer.param_groups
        rate = groups[0]["lr"]
        for group in groups:  # before the forward pass, which may then use their memory
            for weight in group["params"]:
                weight.grad = None
        loss, counted = self.answer(batch)
        # Backwards, and the step, without autocast, as Lightning's automatic optimization does.
        with torch.autocast(self.device.type, enabled=False) if mixed else nullcontext():
            self.manual_backward(loss)
            optimizer.step()
        self.update_average()
        if self.schedule and self.schedule["interval"] == "step":
            self.schedule["scheduler"].step()
        return counted, rate

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take Lightning's step, then follow it with the average."""
        super().optimizer_step(*args, **kwargs)
        self.update_average()

    def update_average(self) -> None:
        """Move the average of the weights, if there is one."""
        if self.averaged is not None:
            self.averaged.update()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients; Lightning clips none of several steps at once, nor of a fused optimizer's."""
        if self.clip_val:
            self.clip(self.model.parameters(), self.clip_val)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Leave a plateau's schedule alone: it has stepped at the epoch's end, before the checkpoint."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_start(self) -> None:
        """Average the weights on the device where they are trained."""
        if self.averaged is not None:
            self.averaged.follow(self.model)

    def on_train_epoch_start(self) -> None:
        """Forget what is of the last epoch; checkpoints of earlier versions hold its sums."""
        self.metrics_of("train").reset()
        self.validated = self.logged = False

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the epoch's metrics after its last batch: callbacks find them in ``on_train_epoch_end``."""
        if self.trainer.is_last_batch or self.trainer.global_step == self.trainer.max_steps:
            self.log_metrics(["train"], logger=True)
            self.logged = True

    def on_train_epoch_end(self) -> None:
        """Log an epoch that a callback cut short; let a schedule that looks at metrics step.

        Raises:
            UserError: nobody logs what is monitored; nothing else would say so.
        """
        if not self.logged:
            self.log_metrics(["train"], logger=True)
        for monitor in monitors(self.trainer):
            if self.validated or not monitor.startswith("val"):
                require_logged("monitor", monitor, self.trainer.callback_metrics)
        schedule = self.schedule
        if schedule is None or schedule["interval"] != "epoch":
            return
        if isinstance(schedule["scheduler"], ReduceLROnPlateau):
            logged, monitor = self.trainer.callback_metrics, schedule["monitor"]
            if monitor.startswith("val") and not self.validated:
                return  # trainer.check_val_every_n_epoch: nothing is known of this epoch
            require_logged("schedule.monitor", monitor, logged)
            schedule["scheduler"].step(logged[monitor])
        elif not self.automatic_optimization:
            schedule["scheduler"].step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the classes' names, for readers, the steps of a call, and what each process has counted."""
        checkpoint["classes"] = list(self.classes)
        checkpoint["steps_per_execution"] = self.steps_per_execution
        counted = self.metrics_of("train").items(keep_base=True, copy_state=False)
        checkpoint["train_metrics"] = gathered({name: dict(one.metric_state) for name, one in counted})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting from there; of more processes than now, some count for several."""
        metrics = self.metrics_of("train")
        metrics.reset()
        for number, kept in enumerate(
            checkpoint["train_metrics"][self.global_rank :: self.trainer.world_size]
        ):
            for name, one in metrics.items(keep_base=True, copy_state=False):
                state = move_data_to_device(dict(kept[name]), self.device)
                if number:
                    one.merge_state(state)
                else:
                    vars(one).update(state)

    # Evaluation

    def evaluate(self, batch: Batch, split: str) -> Tensor:
        """Count a batch without mixed precision: any reader of the checkpoint gets the same metrics."""
        images, labels = batch[:2]
        with torch.autocast(self.device.type, enabled=False):
            output: Tensor = self(images)
            if split == FLIPPED:
                output = (output + self(images.flip(3))) / 2
            self.count(split, [Answer(output, labels, cross_entropy(output, labels))])
        return output

    def on_validation_epoch_start(self) -> None:
        """Evaluate what a checkpoint keeps."""
        share_buffers(self)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch of the split whose loader gave it."""
        self.evaluate(batch, split_names(self.trainer.val_dataloaders)[dataloader_idx])

    def on_validation_epoch_end(self) -> None:
        """Log what callbacks and schedules may monitor."""
        self.log_metrics(split_names(self.trainer.val_dataloaders), logger=True)
        self.validated = True

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Count a batch of the split whose loader gave it; return the model's output."""
        split = split_names(self.trainer.test_dataloaders)[dataloader_idx]
        output = self.evaluate(batch, split)
        if split == "test" and self.tta_flip:
            self.evaluate(batch, FLIPPED)
        return output

    def on_test_epoch_end(self) -> None:
        """Log the final metrics."""
        flipped = [FLIPPED] if self.tta_flip else []
        self.log_metrics([*split_names(self.trainer.test_dataloaders), *flipped], logger=self.log_test)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the model's output."""
        output: Tensor = self(batch[0])
        return output

    # Metrics

    def metrics_of(self, split: str) -> MetricCollection:
        """Return the metrics of a split."""
        return cast(MetricCollection, self.metrics[f"{split}_"])

    def count(self, split: str, answers: list[Answer]) -> Tensor:
        """Update a split's metrics once with the answers to some batches; return their losses."""
        outputs, labels, each, shares = zip(*answers, strict=True)
        losses = torch.stack(each).double()
        several = len(answers) > 1
        sizes = [[float(len(of)) for of in labels], list(shares)]
        self.metrics_of(split).update(
            preds=torch.cat(outputs) if several else outputs[0],
            target=torch.cat(labels) if several else labels[0],
            losses=losses,
            sizes=torch.tensor(sizes, dtype=torch.float64, device=self.device),
        )
        return losses

    def log_metrics(self, splits: Sequence[str], logger: bool) -> None:
        """Log what was counted, and forget it; loggers, if they are to have it, get the epoch's number.

        Args:
            logger: what is for loggers is what the Trainer returns, too, without a logger as well.
        """
        counted: dict[str, Tensor] = {}
        for split in splits:
            counted |= self.metrics_of(split).compute()
            self.metrics_of(split).reset()
        how: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": 1}
        if logger and self.trainer.loggers:
            self.log("step", self.trainer.current_epoch + 1.0, logger=True, **how)
        shown = "val" in splits or not counted.keys().isdisjoint(monitors(self.trainer))
        self.log_dict(counted, prog_bar=shown, logger=None if logger else False, **how)
