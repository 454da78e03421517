"""Learning-rate schedules: PyTorch's own by a YAML alone, and functions that need facts of the run.

A schedule's node names a target: a class of ``torch.optim.lr_scheduler``, or a function of an optimizer. Its
other keys are the target's arguments; ``interval`` and ``monitor`` are Lightning's where the target has none.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from fmnist_lit.errors import UsageError

# What Lightning's ``configure_optimizers`` may return under "lr_scheduler", or None: the rate stays.
Schedule = dict[str, Any] | None

STEP_BY_STEP = (OneCycleLR, CyclicLR)  # as PyTorch documents them; the others go on by epochs
# How words start that tell what a metric is; the second wins: a Brier score falls.
RISING = ("acc", "auc", "auroc", "dice", "f1", "iou", "kappa", "precision", "r2", "recall", "score")
FALLING = ("brier", "ece", "entropy", "err", "hinge", "loss", "mae", "mse", "nll", "perplexity", "rmse")


def make_schedule(
    target: Callable[..., Any], optimizer: Optimizer, steps: int, /, **settings: Any
) -> Schedule:
    """Call a target with its settings; return Lightning's form.

    Args:
        target: class or function.
        optimizer: carries the rate of the config's optimizer.
        steps: of the whole run; ``total_steps`` of a target that takes them and was not told otherwise.
        settings: the other keys of the node.

    >>> import torch
    >>> sgd = torch.optim.SGD([torch.ones(1)], lr=0.1, momentum=0.9)
    >>> make_schedule(torch.optim.lr_scheduler.StepLR, sgd, 100, step_size=5)["interval"]
    'epoch'
    >>> make_schedule(torch.optim.lr_scheduler.OneCycleLR, sgd, 100, max_lr=0.1)["scheduler"].total_steps
    100

    Raises:
        UsageError: the target refuses its settings, or what it returns is no schedule.
    """
    known = inspect.signature(target).parameters
    outer = {
        key: settings.pop(key) for key in ("interval", "monitor") if key in settings and key not in known
    }
    if "total_steps" in known and settings.get("total_steps", settings.get("epochs")) is None:
        settings["total_steps"] = steps
    if target is ReduceLROnPlateau and outer.get("monitor") and "mode" not in settings:
        settings["mode"] = mode_of(outer["monitor"])  # else it would take any metric for a loss
    try:
        built = target(optimizer, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(f"schedule: {error}") from error
    return as_lightning(built, **outer)


def as_lightning(built: Any, **outer: Any) -> Schedule:
    """Turn a scheduler, or a dictionary that has one, into Lightning's dictionary; None stays None.

    Args:
        built: what a target returned.
        outer: keys that overrule it.

    Raises:
        UsageError: there is no scheduler, its interval is unknown, or a plateau has no metric to look at.
    """
    if built is None:
        return None
    schedule = dict(built) if isinstance(built, dict) else {"scheduler": built}
    scheduler = schedule.get("scheduler")
    if not isinstance(scheduler, LRScheduler):
        raise UsageError(f"schedule: {type(scheduler).__name__} is none of torch.optim.lr_scheduler.")
    schedule = {"interval": "step" if isinstance(scheduler, STEP_BY_STEP) else "epoch"} | schedule | outer
    if schedule["interval"] not in ("step", "epoch"):
        raise UsageError(f"schedule.interval={schedule['interval']}: it must be one of step, epoch.")
    if isinstance(scheduler, ReduceLROnPlateau) and schedule.get("monitor") is None:
        raise UsageError("schedule: ReduceLROnPlateau needs a monitor: schedule.monitor=val_loss.")
    if isinstance(scheduler, ReduceLROnPlateau) and schedule["interval"] == "step":
        raise UsageError("schedule.interval=step: a plateau shows in an epoch's metrics only.")
    return schedule


def mode_of(metric: str) -> str:
    """Return "max" for a metric that is better the larger it is, else "min", by its name.

    >>> mode_of("val_accuracy"), mode_of("val_loss"), mode_of("top5_error"), mode_of("val/macro_f1")
    ('max', 'min', 'min', 'max')

    Raises:
        UsageError: the name does not say.
    """
    words = metric.lower().replace("/", "_").replace("-", "_").split("_")
    for mode, starts in (("min", FALLING), ("max", RISING)):
        if any(word.startswith(starts) for word in words):
            return mode
    raise UsageError(
        f"monitor={metric}: its name does not say whether more is better. Set mode=max or mode=min."
    )


def constant(optimizer: Optimizer, total_steps: int) -> Schedule:
    """Keep the rate."""
    return None


def plateau(
    optimizer: Optimizer,
    total_steps: int,
    monitor: str,
    factor: float,
    patience: int,
    cooldown: int,
    threshold: float,
    min_lr: float,
    mode: str | None = None,
) -> Schedule:
    """Cut the rate when ``monitor`` has not improved for ``patience`` epochs; its name gives the mode."""
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode=mode or mode_of(monitor),  # type: ignore[arg-type]
        factor=factor,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        threshold_mode="abs",
        min_lr=min_lr,
    )
    return {"scheduler": scheduler, "interval": "epoch", "monitor": monitor}


def cosine(optimizer: Optimizer, total_steps: int, min_lr: float) -> Schedule:
    """Follow half a cosine down to ``min_lr`` (Loshchilov and Hutter 2017, without restarts)."""
    scheduler = CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=min_lr)
    return {"scheduler": scheduler, "interval": "step"}


def onecycle(
    optimizer: Optimizer, total_steps: int, warmup: float, div_factor: float, final_div_factor: float
) -> Schedule:
    """Climb to the optimizer's rate for ``warmup`` of all steps, then fall (Smith and Topin 2018)."""
    scheduler = OneCycleLR(
        optimizer,
        max_lr=optimizer.param_groups[0]["lr"],
        total_steps=total_steps,
        # OneCycleLR divides by the steps on the way up less one.
        pct_start=warmup + 1e-6 if warmup * total_steps == 1 else warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,  # RMSProp and plain SGD have none to cycle
    )
    return {"scheduler": scheduler, "interval": "step"}
