"""How many CPU threads a process takes if nobody says: no more than other programs leave it cores.

PyTorch's threads wait for one another in busy loops. Two of them on two idle cores train 1.1 to 1.5 times as
fast as one; where other programs keep both cores busy, they take seven to nine times as long as one.
"""

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import psutil

SHORTEST, LONGEST = 0.2, 60.0  # seconds of a look at the cores that says how busy they are now
LEFT_OUT = 0.3  # of a core may be busy without costing a thread: a desktop is never quite idle
SAID = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by these a user chooses; PyTorch obeys


class Look(NamedTuple):
    """What the system had counted at a time: all in seconds."""

    time: float
    idle: float  # of all cores that this process may use
    own: float  # of this process, on whatever core


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def look() -> Look:
    """Read the system's counts."""
    cores = own_cores()
    times = [of for core, of in enumerate(psutil.cpu_times(percpu=True)) if core in cores]
    idle = sum(of.idle + getattr(of, "iowait", 0.0) for of in times)
    return Look(time.monotonic(), idle, time.process_time())


FIRST = look()  # the import of PyTorch, which follows, is long enough to judge by


def free_share() -> float:
    """Return the share of the cores, 0 to 1, that other programs leave idle; looks for up to 0.2 s."""
    before = FIRST
    if not SHORTEST <= time.monotonic() - before.time <= LONGEST:
        before = look()
        time.sleep(SHORTEST)
    now = look()
    free = (now.idle - before.idle + now.own - before.own) / (now.time - before.time)
    return min(1.0, free / len(own_cores()))


def free_threads(most: int) -> int:
    """Return how many threads of those that PyTorch would take find a core; a user's own word counts."""
    if any(name in os.environ for name in SAID):
        return most
    return max(1, int(most * free_share() + LEFT_OUT))


def threads_for(launcher: Mapping[str, Any], devices: int = 1) -> int | None:
    """Return each job's share of the cores if Hydra's launcher runs several at a time here, else None.

    Args:
        devices: processes of a job.
    """
    if not str(launcher.get("_target_", "")).endswith("JoblibLauncher"):
        return None
    cores = len(own_cores())
    jobs = int(launcher.get("n_jobs") or 1)
    at_a_time = jobs if jobs > 0 else max(1, cores + 1 + jobs)  # joblib: -1 is all cores, -2 all but one
    return max(1, cores // at_a_time // devices)
