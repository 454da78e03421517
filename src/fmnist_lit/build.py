"""Turns a config node that names a ``_target_`` into the object it describes.

Only names in TARGETS are built, so a config from elsewhere can run none but these.
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from fmnist_lit.errors import UsageError, choices

TARGETS = (
    "fmnist_lit.data.augment.Augmentation",
    "fmnist_lit.data.datamodule.DataModule",
    "fmnist_lit.data.sources.fashion_mnist",
    "fmnist_lit.data.synthetic.drawn_garments",
    "fmnist_lit.models.block_cnn.BlockCNN",
    "fmnist_lit.models.cnn.CNNA",
    "fmnist_lit.models.cnn.CNNB",
    "fmnist_lit.models.cnn.CNNC",
    "fmnist_lit.models.lenet.LeNet",
    "fmnist_lit.models.mlp.MLP",
    "fmnist_lit.models.patching.Concat",
    "fmnist_lit.models.patching.Embed",
    "fmnist_lit.models.patching.Shared",
    "fmnist_lit.models.patching.Whole",
    "fmnist_lit.models.residual.ResidualCNN",
    "fmnist_lit.models.vgg.VGG11",
    "fmnist_lit.schedules.constant",
    "fmnist_lit.schedules.cosine",
    "fmnist_lit.schedules.onecycle",
    "fmnist_lit.schedules.plateau",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.loggers.TensorBoardLogger",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.NAdam",
    "torch.optim.RMSprop",
    "torch.optim.SGD",
)


def build(node: Mapping[str, Any], *arguments: Any, **further: Any) -> Any:
    """Call a node's target with its keys; nodes inside it are built first.

    Args:
        node: plain mapping with ``_target_`` and keyword arguments.
        arguments: positional arguments before them, which no config can know (parameters, say).
        further: more keyword arguments.

    Raises:
        UsageError: the target is not in TARGETS, or does not take a key.
    """
    target = node["_target_"]
    if target not in TARGETS:
        raise UsageError(f"_target_={target}: not a target of this project. {choices(target, TARGETS)}")
    module, _, name = target.rpartition(".")
    function = getattr(import_module(module), name)
    keywords = {key: value for key, value in node.items() if key != "_target_"}
    known = inspect.signature(function).parameters
    for key in keywords:
        if key not in known:
            raise UsageError(f"{name} takes no {key}. {choices(key, known)}")
    built = {
        key: build(value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in keywords.items()
    }
    try:
        inspect.signature(function).bind(*arguments, **built, **further)
    except TypeError as error:
        raise UsageError(f"{name}: {error}.") from error
    return function(*arguments, **built, **further)
