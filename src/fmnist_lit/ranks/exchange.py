"""What ranks tell each other, in one place. A single process tells nobody and pays nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class RankLost(Exception):
    """Another rank has ended, so that this one cannot go on. The launcher knows why."""


class Counts(NamedTuple):
    """Of one batch: mean loss, images whose class was right, images."""

    loss: Tensor
    hits: Tensor
    images: Tensor | int


@contextmanager
def connected() -> Iterator[None]:
    """Tell a lost connection from a fault of ours.

    Raises:
        RankLost: the others do not answer.
    """
    try:
        yield
    except RuntimeError as error:
        raise RankLost(str(error)) from error


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Args:
        rank: of this process; the first, 0, is the one that writes.
        count: of all.
        local: which of its machine's devices it uses.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes what is to be kept."""
        return self.rank == 0

    def share(self, images: int) -> slice:
        """Return this rank's part of a batch: sizes differ by one at most, the first ranks have more."""
        least, more = divmod(images, self.count)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def add_up(self, sums: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks; the tensor itself is used up."""
        if self.count > 1:
            with connected():
                dist.all_reduce(sums)
        return sums

    def largest(self, numbers: list[int]) -> list[int]:
        """Return the largest of each number over all ranks."""
        if self.count == 1:
            return numbers
        return [max(column) for column in zip(*self.gather(numbers), strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, tensors of which lie on the CPU."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with connected():
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self.gather(None)

    def average(self, model: nn.Module, counts: Counts) -> Counts:
        """Make gradients and running statistics those of the whole batch; return its counts.

        Every rank weighs as many images as it has, so a share may be smaller than another, or empty. One
        message carries everything.
        """
        tensors = [*gradients(model, counts.images), *running_statistics(model)]
        n = int(counts.images)  # of this rank's share, a number still
        tail = torch.stack([counts.loss * n, counts.hits.to(counts.loss), torch.full_like(counts.loss, n)])
        message = self.add_up(torch.cat([*(tensor.flatten() * n for tensor in tensors), tail]))
        means = (message[:-3] / message[-1]).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))
        loss, hits, images = message[-3:]
        return Counts(loss / images, hits.long(), images.long())


ALONE = Ranks()


def gradients(model: nn.Module, images: Tensor | int) -> list[Tensor]:
    """Return the gradients of all weights that are trained; of no images they are zero."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        if not images:
            weight.grad = torch.zeros_like(weight)
    found = [weight.grad for weight in weights if weight.grad is not None]
    assert len(found) == len(weights), "a weight that no output depends on"
    return found


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return what BatchNorm layers remember of past batches.

    The mean over ranks is the whole batch's mean; of the variance it leaves out what lies between ranks.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    return [tensor for tensor in kept if tensor is not None]
