"""The checks of a composed config before anything is trained or written.

Each value is checked by the signature of what it is for (``build.py``). Here stand the keys of a run as a
whole, and what cannot work together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel

from fmnist_lit.build import (
    RULES,
    TARGET,
    arguments_model,
    build,
    build_group,
    check_node,
    checked,
    is_inside,
    is_node,
    trainer_arguments,
)
from fmnist_lit.config import Config, has_validation
from fmnist_lit.constraints import Positive
from fmnist_lit.data.split import require_fold
from fmnist_lit.errors import UsageError, choices
from fmnist_lit.finetune import freeze
from fmnist_lit.metrics import try_metric
from fmnist_lit.models.initialization import initialize
from fmnist_lit.schedules import build_schedule
from fmnist_lit.trainer import try_trainer


class Debug(BaseModel):
    """What a run is held against."""

    model_config = RULES

    loss_within: Positive | None


def check(config: Mapping[str, Any], trusted: Sequence[str] | None = None) -> None:
    """Check a resolved config: every value by itself, then what cannot work together.

    Args:
        trusted: packages from which targets may come; None: any, for their owner wrote them.

    Raises:
        UsageError: the first value or combination that cannot work, and what can.
    """
    checked(Config, config)
    for key, node in nodes(config):
        if not is_node(node):
            raise UsageError(f"{key}.{TARGET}: this key is missing; it names what is built.")
    checked(arguments_model(initialize, ("model",)), config["init"], "init.")
    checked(trainer_arguments(), config["trainer"], "trainer.")
    checked(Debug, config["debug"], "debug.")
    for combination in (check_patch, check_folds, check_monitors, check_overfit, check_devices):
        combination(config)
    for key, node in nodes(config):
        if key != "schedule":  # the run has to add to it
            check_node(node, key, trusted)
    try_out(config, trusted)


def nodes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """List the nodes of a config that are built, by their keys; null leaves one out."""
    for group in ("data", "patch", "model", "optim", "schedule"):
        yield group, config[group]
    for group in ("augment", "callbacks", "logger", "metrics"):
        yield from ((f"{group}.{name}", node) for name, node in config[group].items() if node is not None)


def try_out(config: Mapping[str, Any], trusted: Sequence[str] | None) -> None:
    """Build what costs nothing: a model without weights, the optimizer of one weight, and so on.

    Raises:
        UsageError: one of them refuses its arguments.
    """
    build_group(config, "augment", trusted=trusted, classes=10)
    for name, metric in build_group(config, "metrics", trusted=trusted, classes=10).items():
        try_metric(metric, name, config["metrics"][name].get("num_classes") or 10)
    with torch.device("meta"):
        freeze(build(config["model"], "model", trusted=trusted, classes=10), config["freeze"])
    optimizer = build(config["optim"], "optim", [torch.nn.Parameter(torch.zeros(1))], trusted=trusted)
    build_schedule(config["schedule"], optimizer, 1000, trusted, config["metrics"])
    try_trainer(config)


def check_patch(config: Mapping[str, Any]) -> None:
    """A patching mode needs a model that takes one."""
    mode = str(config["patch"].get(TARGET)).rpartition(".")[2]
    if mode == "NoPatching" and config["patch"].get("size") is not None:
        raise UsageError(
            f"patch.size={config['patch']['size']}: whole images have no patches. "
            "Choose patch=concat, patch=shared or patch=embed (sizes 2, 4, 7 or 14), or leave it out."
        )
    if mode != "NoPatching" and "patch" not in config["model"]:
        raise UsageError(
            f"patch={mode} needs an MLP: a CNN sees whole images. "
            "Choose model=mlp4, model=mlp_custom or model=mlp, or patch=none."
        )


def check_monitors(config: Mapping[str, Any]) -> None:
    """What looks at validation data needs some, nothing looks at test data, nor at what nobody logs."""
    metrics = ("loss", "accuracy", *(name for name, node in config["metrics"].items() if node))
    known = ["train_loss_sum", *(f"{split}_{name}" for split in ("train", "val") for name in metrics)]
    others = any(node and may_log(str(node.get(TARGET))) for node in config["callbacks"].values())
    watching = {"schedule": config["schedule"]} | {
        f"callbacks.{name}": node for name, node in config["callbacks"].items() if node
    }
    for key, node in watching.items():
        monitor = str(node.get("monitor", ""))
        if monitor.startswith("test"):
            raise UsageError(
                f"{key}.monitor={monitor}: the test set selects nothing. Choose val_accuracy or val_loss."
            )
        if monitor.startswith("val_") and key != "callbacks.best" and not has_validation(config):
            raise UsageError(
                f"{key} looks at {node['monitor']}, and there is no validation data. "
                "Set data.val_fraction above 0, or leave it out."
            )
        if isinstance(node.get("monitor"), str) and not others and monitor not in known:
            raise UsageError(f"{key}.monitor={monitor}: nothing logs it. {choices(monitor, known)}")


def may_log(target: str) -> bool:
    """Whether a callback may log what can be monitored: anybody's own, and one of Lightning's."""
    return not is_inside(target, ("fmnist_lit", "lightning")) or target.endswith(".LearningRateMonitor")


def check_folds(config: Mapping[str, Any]) -> None:
    """A fold is one of those that there are."""
    folds, fold = config["data"].get("folds"), config["data"].get("fold", 0)
    if isinstance(folds, int | None) and isinstance(fold, int):
        require_fold(folds, fold)


def check_overfit(config: Mapping[str, Any]) -> None:
    """The loss of a smoothed label has another floor than the one it is held against."""
    if config["debug"].get("loss_within") is not None and config["label_smoothing"]:
        raise UsageError("debug.loss_within (debug=overfit) does not work with label_smoothing above 0.")


def check_devices(config: Mapping[str, Any]) -> None:
    """Several devices need a strategy, and each an image of every full batch."""
    trainer, size = config["trainer"], config["data"].get("batch_size", 1)
    world = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    if world > 1 and not str(trainer.get("strategy")).startswith("ddp"):
        raise UsageError(f"{world} processes (trainer.devices times trainer.num_nodes) need trainer=ddp.")
    if isinstance(size, int) and world > 1 and world > size:
        raise UsageError(
            f"data.batch_size={size} cannot be shared by {world} processes; each needs an image."
        )
