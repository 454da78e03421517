"""What a run's figures depend on besides its config: versions, commit, device."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = (
    "fmnist-lit",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "torchmetrics",
    "numpy",
)


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


@cache
def commit() -> str | None:
    """Return the commit of this checkout, "-dirty" behind it if files differ; None outside a checkout.

    It is asked once: what a process has imported stays, whatever the checkout is hours later.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def today() -> str:
    """Return the date, as it is in Greenwich."""
    return datetime.now(UTC).date().isoformat()


def device_name(device: torch.device) -> str:
    """Describe a device: "cuda: NVIDIA H100, 79 GiB" or "cpu: AMD EPYC, 2 threads, 23 GiB"."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = torch.get_num_threads()
    return f"cpu: {processor_name()}, {threads} thread{'s' * (threads > 1)}, {memory:.0f} GiB"


def processor_name() -> str:
    """Return the processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
