"""Learning-rate schedules: PyTorch's own by a YAML alone, and functions that need facts of the run.

A schedule's node names a target: a class of ``torch.optim.lr_scheduler``, or a function of an optimizer. Its
other keys are the target's arguments; ``interval`` and ``monitor`` are Lightning's where the target has none.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from fmnist_lit.build import build, target_of
from fmnist_lit.constraints import AtLeastOne, Natural, NotNegative, OpenShare, Share, Text
from fmnist_lit.errors import UsageError, UserError, choices

# What Lightning's ``configure_optimizers`` may return under "lr_scheduler", or None: the rate stays.
Schedule = dict[str, Any] | None

STEP_BY_STEP = (OneCycleLR, CyclicLR)  # as PyTorch documents them; the others go on by epochs
# How words start that tell what a metric is; the second wins: a Brier score falls.
RISING = ("acc", "auc", "auroc", "dice", "f1", "iou", "kappa", "precision", "r2", "recall", "score")
FALLING = ("brier", "ece", "entropy", "err", "hinge", "loss", "mae", "mse", "nll", "perplexity", "rmse")


def build_schedule(
    node: Mapping[str, Any],
    optimizer: Optimizer,
    steps: int,
    trusted: Sequence[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Schedule:
    """Build a schedule in Lightning's form, which has ``interval`` and ``monitor`` where a target has none.

    Args:
        steps: of the whole run; ``total_steps`` of a target that takes them and was not told otherwise.
        metrics: nodes of the config, by name, one of which the schedule may look at.

    Raises:
        UsageError: it cannot be.
    """
    known = inspect.signature(target_of(node, "schedule", trusted)).parameters
    if "mode" in known:
        node = with_mode(node, "schedule", metrics or {})
    outer = {key: node[key] for key in ("interval", "monitor") if key in node and key not in known}
    inner = {key: value for key, value in node.items() if key not in outer}
    facts = {} if inner.get("epochs") else {"total_steps": steps}
    return as_lightning(build(inner, "schedule", optimizer, trusted=trusted, **facts), **outer)


def needs_length(node: Mapping[str, Any], trusted: Sequence[str] | None = None) -> bool:
    """Whether a schedule's rates depend on how long the whole run is."""
    known = inspect.signature(target_of(node, "schedule", trusted)).parameters
    return "total_steps" in known and not (node.get("total_steps") or node.get("epochs"))


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
        raise UsageError("schedule: ReduceLROnPlateau needs a monitor: +schedule.monitor=val_loss.")
    if isinstance(scheduler, ReduceLROnPlateau) and schedule["interval"] == "step":
        raise UsageError("schedule.interval=step: a plateau shows in an epoch's metrics only.")
    return schedule


def with_mode(node: Mapping[str, Any], key: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node that says whether more of what it monitors is better, as the metric does, else its name.

    Args:
        key: of the node.
        metrics: nodes of the config, by name.

    Raises:
        UsageError: neither says it.
    """
    monitor = node.get("monitor")
    if not isinstance(monitor, str) or not monitor or node.get("mode"):
        return dict(node)
    split, _, name = monitor.partition("_")
    metric = metrics.get(name) if split in ("train", "val") else None
    better = build(metric, f"metrics.{name}", classes=10).higher_is_better if metric else None
    if better is None:
        return {**node, "mode": mode_of(monitor, f"{key}." if "mode" in node else f"+{key}.")}
    return {**node, "mode": "max" if better else "min"}


def mode_of(metric: str, key: str = "") -> str:
    """Return "max" for a metric that is better the larger it is, else "min", by its name.

    Args:
        key: with a dot behind it, under which a mode could be set; for the message.

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
        f"monitor={metric}: its name does not say whether more is better. Set {key}mode=max or {key}mode=min."
    )


def require_logged(key: str, monitor: str, logged: Mapping[str, Any]) -> None:
    """Refuse to look at a metric that nobody logs.

    Args:
        key: that names it.

    Raises:
        UserError: it is none of those logged; the message names what is near.
    """
    if monitor not in logged:
        raise UserError(f"{key}={monitor}: nothing of that name is logged. {choices(monitor, logged)}")


def require_below(min_lr: float, optimizer: Optimizer) -> None:
    """Refuse a lowest rate above the highest.

    Raises:
        UsageError: it is.
    """
    highest = optimizer.param_groups[0]["lr"]
    if min_lr > highest:
        raise UsageError(f"schedule.min_lr={min_lr} lies above optim.lr={highest}.")


def constant(optimizer: Optimizer) -> Schedule:
    """Keep the rate."""
    return None


def plateau(
    optimizer: Optimizer,
    monitor: Text,
    factor: OpenShare,
    patience: Natural,
    cooldown: Natural,
    threshold: NotNegative,
    min_lr: NotNegative,
    mode: Literal["min", "max"] | None = None,
) -> Schedule:
    """Cut the rate when ``monitor`` has not improved for ``patience`` epochs; its name gives the mode."""
    require_below(min_lr, optimizer)
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


def cosine(optimizer: Optimizer, total_steps: int, min_lr: NotNegative) -> Schedule:
    """Follow half a cosine down to ``min_lr`` (Loshchilov and Hutter 2017, without restarts)."""
    require_below(min_lr, optimizer)
    scheduler = CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=min_lr)
    return {"scheduler": scheduler, "interval": "step"}


def onecycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup: OpenShare,
    div_factor: AtLeastOne,
    final_div_factor: AtLeastOne,
) -> Schedule:
    """Climb to the optimizer's rate for ``warmup`` of all steps, then fall (Smith and Topin 2018)."""
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        # OneCycleLR divides by the steps on the way up less one.
        pct_start=warmup + 1e-6 if warmup * total_steps == 1 else warmup,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=False,  # RMSProp and plain SGD have none to cycle
    )
    return {"scheduler": scheduler, "interval": "step"}


def linear(optimizer: Optimizer, total_steps: int, warmup: Share, end: Share) -> Schedule:
    """Climb in a line to the optimizer's rate for ``warmup`` of all steps, then fall to ``end`` of it."""

    def factor(step: int) -> float:
        climb = warmup * total_steps
        if step < climb:
            return (step + 1) / (climb + 1)
        return end + (1 - end) * (total_steps - step) / (total_steps - climb)

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
