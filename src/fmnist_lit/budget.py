"""Training length by computation: ``trainer.target_tflop`` in place of ``trainer.max_epochs``."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch import nn
from torch.optim import Optimizer

from fmnist_lit.errors import UsageError
from fmnist_lit.models.compute import training_flop
from fmnist_lit.trainer import OF_SINGLE_STEPS, is_one_of

# Flags that change what an epoch or a step is.
OTHERS = ("limit_train_batches", "overfit_batches", "accumulate_grad_batches", "max_steps")


def step_flop(optimizer: Optimizer) -> float:
    """Return the floating-point operations of an optimizer's step: what it says, else none that count."""
    return float(getattr(optimizer, "step_flop", 0.0))


def length_within_target(
    flags: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    images: int,
    batch_size: int,
    callbacks: Sequence[Any] = (),
) -> dict[str, int]:
    """Return the Trainer's epochs, and their batches, that a target of computation allows.

    As a rule it allows a part of an epoch more than those that hold all images: then there is one more, each
    of them a little shorter, so that the last one ends in a validation, too.

    Args:
        flags: of the config's trainer.
        images: of an epoch.
        callbacks: those with ``planned_images`` say of how many further images they take the computation.

    Raises:
        UsageError: it allows no step, or something else says how many batches an epoch or a step has.
    """
    asked = flags["target_tflop"]
    others = [
        f"trainer.{key}" for key in OTHERS if key in flags and not is_one_of(flags[key], OF_SINGLE_STEPS[key])
    ]
    if others:
        raise UsageError(f"trainer.target_tflop: not with {', '.join(others)}.")
    size = min(batch_size, images)
    an_image, a_step = training_flop(model), step_flop(optimizer)
    of_epoch, of_step = math.ceil(images / size), (size * an_image + a_step) / 1e12
    planned = sum(one.planned_images(images, model) for one in callbacks if hasattr(one, "planned_images"))
    target = asked - planned * an_image / 1e12
    whole = (images * an_image + of_epoch * a_step) / 1e12
    if target < of_step:
        raise UsageError(
            f"trainer.target_tflop={asked}: a single step takes {asked - target + of_step:.2g} TFLOP."
        )
    fit = int(target // whole)
    shorter = int(target / (fit + 1) // of_step)  # no last batch that may be smaller
    if fit * whole >= (fit + 1) * shorter * of_step:
        return {"max_epochs": fit, "limit_train_batches": of_epoch}
    return {"max_epochs": fit + 1, "limit_train_batches": shorter}


def computation(trainer: L.Trainer, model: nn.Module, images: int) -> float:
    """Return the floating-point operations of a training: of its images, its steps, and its callbacks.

    Args:
        images: that were trained on.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = sum(getattr(callback, "further_images", 0.0) for callback in callbacks)
    return training_flop(model) * (images + others) + step_flop(trainer.optimizers[0]) * trainer.global_step
