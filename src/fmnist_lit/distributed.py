"""What a process knows of the others that train the same model.

PyTorch's elastic launcher starts and watches them (``elastic.py``), Lightning's DDPStrategy averages their
gradients.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import nn


def world_size(config: Mapping[str, Any]) -> int:
    """Return how many processes train together, by a run's config."""
    settings = config["trainer"]
    devices = settings.get("devices", 1)
    ddp = str(settings.get("strategy", "")).startswith("ddp")
    return int(devices) * int(settings.get("num_nodes", 1)) if ddp and isinstance(devices, int) else 1


def is_started(config: Mapping[str, Any]) -> bool:
    """Whether this process is one of those that train together, and not the one that is to start them."""
    if TorchElasticEnvironment.detect():
        return world_size(config) > 1
    tasks = os.environ.get("SLURM_NTASKS")
    return SLURMEnvironment.detect() and world_size(config) > 1 and tasks == str(world_size(config))


def rank(config: Mapping[str, Any]) -> int:
    """Return this process's number among those that train together; 0 for one alone, in whatever cluster."""
    if not is_started(config):
        return 0
    return int(os.environ["RANK" if TorchElasticEnvironment.detect() else "SLURM_PROCID"])


def gathered(value: Any) -> list[Any]:
    """Return every process's value; of one alone, its own."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def largest(numbers: list[int]) -> list[int]:
    """Return the largest of each number over all processes."""
    return [max(column) for column in zip(*gathered(numbers), strict=True)]


def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, which a checkpoint keeps: DDP does so in training alone."""
    if dist.is_available() and dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
