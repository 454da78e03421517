"""Configs of earlier versions in today's words, so that old records and run directories stay readable."""

from collections.abc import Mapping
from typing import Any

from fmnist_lit.config import OLD_AFFINE, RENAMED_KEYS, leaves
from fmnist_lit.errors import UserError

PATCHING, AUGMENT = "fmnist_lit.models.patching.", "fmnist_lit.data.augment."
RENAMED = {"Whole": "NoPatching", "Concat": "ConcatPatches", "Shared": "SharedMLP", "Embed": "PatchEmbedding"}
TARGETS = {PATCHING + old: PATCHING + new for old, new in RENAMED.items()}
# Keys that were added since, with the value by which runs without them were made.
ADDED: dict[str, Any] = {
    "label_smoothing": 0.0,
    "ema_decay": None,
    "data.folds": None,
    "data.fold": 0,
    "data.augment_validation": False,
    "compile": False,
    "init_from": None,
    "freeze": [],
}
# What runs with one of the old names always did.
FIXED: dict[str, Any] = {
    "augment.affine._target_": f"{AUGMENT}RandomAffine",
    **{f"augment.affine.{name}": value for name, value in OLD_AFFINE.items()},
    "augment.affine.fill": "black",
    "augment.noise._target_": f"{AUGMENT}GaussianNoise",
    "augment.noise.std": 0.0,
    "augment.erasing._target_": f"{AUGMENT}RandomErasing",
    "augment.erasing.probability": 0.0,
    "callbacks.best._target_": "fmnist_lit.callbacks.BestCheckpoint",
    "trainer.num_sanity_val_steps": 0,
}


def modern_override(override: str) -> str:
    """Return an override under today's name of its key."""
    key, equals, value = override.partition("=")
    return f"{RENAMED_KEYS.get(key) or key}{equals}{value}"


def modern(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a flat config with today's keys, in their old order, those that it lacks behind them.

    >>> modern({"data.limit": 20, "patch._target_": "fmnist_lit.models.patching.Whole"})["data.train_subset"]
    20
    """
    is_old = any(key in flat for key in RENAMED_KEYS)
    stops = flat.get("callbacks.patience") is not None
    config: dict[str, Any] = {}
    for key, value in flat.items():
        name = RENAMED_KEYS.get(key, key)
        if name is None or (name.startswith("callbacks.early_stopping.") and not stops):
            continue
        config[name] = TARGETS.get(value, value) if isinstance(value, str) else value
    if stops:
        config["callbacks.early_stopping._target_"] = "fmnist_lit.callbacks.EarlyStopping"
        config["callbacks.early_stopping.monitor"] = flat.get("callbacks.monitor")
    added = ADDED | FIXED if is_old else ADDED
    return config | {key: value for key, value in added.items() if key not in config}


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested config of a run directory with today's keys.

    Raises:
        UserError: a key stands beside another one that is inside it.
    """
    nested: dict[str, Any] = {group: {} for group, value in config.items() if isinstance(value, Mapping)}
    for key, value in modern(dict(leaves(config))).items():
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise UserError(f"{key}: {group} is a value already.")
        node[name] = value
    return nested
