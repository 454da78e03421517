"""The metrics of every split, as torchmetrics that are updated once a call; a config may add any others."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from fmnist_lit.errors import UsageError

OWN = ("loss", "accuracy", "loss_sum")


class MeanLoss(Metric):
    """Mean cross-entropy over images, summed in double precision: 1,875 losses keep more than four digits."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, sizes: Tensor) -> None:
        """Count batches, of which a small one weighs less.

        Args:
            losses: their means, (batches,), of double precision.
            sizes: how many images each has, and which share of a whole batch that is, (2, batches).
        """
        # Not in place: sums that began in inference mode may be read out of it.
        self.total = self.total + losses @ sizes[0]
        self.images = self.images + sizes[0].sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.images


class LossSum(Metric):
    """Sum of the batches' mean losses, as report five_models prints it."""

    full_state_update = False
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, sizes: Tensor) -> None:
        """Count batches, as MeanLoss does; the shares of one that several processes train on are one."""
        self.total = self.total + losses @ sizes[1]

    def compute(self) -> Tensor:
        """Return the sum."""
        return self.total


class Accuracy(Metric):
    """Share of images whose largest output is their label's, in double precision, as readers count it."""

    higher_is_better = True
    full_state_update = False
    hits: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("hits", "images"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count outputs of (n, classes) and labels of (n,)."""
        self.hits = self.hits + (preds.argmax(1) == target).sum()
        self.images = self.images + len(target)

    def compute(self) -> Tensor:
        """Return the share."""
        return self.hits.double() / self.images


def split_metrics(split: str, further: Mapping[str, Metric]) -> MetricCollection:
    """Return the metrics of a split, named with it before them: "val_loss", "val_accuracy", ...

    Args:
        further: more of them, each with ``update(preds, target)``; copied, so that splits share no state.
    """
    own: dict[str, Metric] = {"loss": MeanLoss(), "accuracy": Accuracy()}
    if split == "train":
        own["loss_sum"] = LossSum()
    added = {name: metric.clone() for name, metric in further.items()}
    return MetricCollection(own | added, prefix=f"{split}_", compute_groups=False)  # type: ignore[arg-type]


def try_metric(metric: Metric, name: str, outputs: int) -> None:
    """Let a metric of a config count an image of each class, as training does.

    Args:
        name: in the config.
        outputs: of the model.

    Raises:
        UsageError: it cannot, what it gives is not one number, or a run has a metric of that name itself.
    """
    key, kind = f"metrics.{name}", type(metric).__name__
    if name in OWN or name.startswith("flipped_"):
        raise UsageError(f"{key}: every run has a metric of this name itself. Choose another name.")
    try:
        counting = split_metrics("val", {name: metric})
        counting.update(
            preds=torch.eye(outputs).softmax(1),
            target=torch.arange(outputs),
            losses=torch.zeros(1, dtype=torch.float64),
            sizes=torch.ones(2, 1, dtype=torch.float64),
        )
        found = counting[f"val_{name}"].compute()
    except Exception as error:  # whatever it says of such arguments
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{key}: {kind} cannot count by update(preds, target), the outputs of (n, {outputs}) and the "
            f"labels of (n,): {said}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UsageError(f"{key}: {kind} gives {shape}; a metric must give one number, as a tensor.")
