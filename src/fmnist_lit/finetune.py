"""Starts from another run's weights, and keeps parts of a model as they are."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from fmnist_lit.errors import UsageError, UserError, choices
from fmnist_lit.run_files import run_of
from fmnist_lit.weights import load_checkpoint, weights_of

SAID = 8  # names in a message


def start_from(model: nn.Module, source: str) -> str:
    """Load all weights of another run that fit, by name and shape; say what fitted and what did not.

    Args:
        source: a run directory, whose best epoch is taken, or a checkpoint.

    Raises:
        UsageError: there are no weights, or none fits.
    """
    path = checkpoint_of(source)
    try:
        theirs = weights_of(load_checkpoint(path))
    except UserError as error:
        raise UsageError(f"init_from={source}: {str(error).removeprefix(f'{path}: ')}") from error
    ours = model.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in ours and fits(value, ours[name])}
    other = [name for name in ours if name in theirs and name not in fitting]
    said = [f"{name} is {described(theirs[name])} there, {described(ours[name])} here" for name in other]
    said += [f"{name} is not there" for name in ours if name not in theirs]
    said += [f"{name} is not here" for name in theirs if name not in ours]
    more = [f"and {len(said) - SAID} more"] if len(said) > SAID else []
    unfit = f" Not: {'; '.join(said[:SAID] + more)}." if said else ""
    if not any(name in fitting for name, _ in model.named_parameters()):
        raise UsageError(f"init_from={source}: none of its weights fits this model.{unfit}")
    model.load_state_dict(fitting, strict=False)
    return f"{len(fitting)} of {len(ours)} tensors are from {source}.{unfit}"


def checkpoint_of(source: str) -> Path:
    """Return the checkpoint that a run directory or a file of weights stands for.

    Raises:
        UsageError: there is none.
    """
    path = Path(source)
    path = run_of(path) / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise UsageError(
            f"init_from={source}: {'there is no such run' if str(path) == source else f'{path} is missing'}."
        )
    return path


def fits(there: torch.Tensor, here: torch.Tensor) -> bool:
    """Whether a tensor can take another's place."""
    return there.shape == here.shape and there.is_floating_point() == here.is_floating_point()


def described(tensor: torch.Tensor) -> str:
    """Say a tensor's shape."""
    return "x".join(map(str, tensor.shape)) or "a number"


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Exclude parameters from training.

    Args:
        names: of parameters, or of modules: all parameters in them.

    Returns:
        Layers whose running statistics are to stay as they are.

    Raises:
        UsageError: the model has nothing of a name, or nothing is left to train.
    """
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    for name in names:
        frozen = [value for key, value in parameters.items() if f"{key}.".startswith(f"{name}.")]
        if not frozen:
            raise UsageError(f"freeze: the model has no weights {name}. {choices(name, known(parameters))}")
        for value in frozen:
            value.requires_grad_(False)
    if not any(value.requires_grad for value in parameters.values()):
        raise UsageError(f"freeze=[{','.join(names)}] leaves nothing to train.")
    return [
        layer
        for key, layer in modules.items()
        if getattr(layer, "track_running_stats", False) and is_frozen(key, layer, names)
    ]


def is_frozen(key: str, layer: nn.Module, names: Sequence[str]) -> bool:
    """Whether a layer lies in a frozen module, or all of its parameters are frozen."""
    own = list(layer.parameters())
    inside = any(f"{key}.".startswith(f"{name}.") for name in names)
    return inside or (bool(own) and not any(value.requires_grad for value in own))


def known(parameters: Iterable[str]) -> list[str]:
    """List the names of parameters and of the modules around them.

    >>> known(["features.0.weight"])
    ['features', 'features.0', 'features.0.weight']
    """
    parts = [name.split(".") for name in parameters]
    return list(dict.fromkeys(".".join(part[:i]) for part in parts for i in range(1, len(part) + 1)))
