"""The table of all jobs of a sweep."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from fmnist_lit.errors import UserError, printable
from fmnist_lit.readers.run_directory import checked_config
from fmnist_lit.run_files import read_metrics, read_overrides, run_directories, why_unfinished
from fmnist_lit.summary import rendered


def read_job(directory: Path, sweep: Path) -> dict[str, Any]:
    """Read one job of a sweep: its overrides, and its metrics or the reason why it has none."""
    job: dict[str, Any] = {"job": str(directory.relative_to(sweep)), "metrics": None}
    job |= {"overrides": ["(overrides unknown)"], "reason": why_unfinished(directory)}
    with suppress(UserError):
        job["overrides"] = read_overrides(directory)
    if job["reason"] is None:
        try:
            checked_config(directory, trust=None)  # metrics of nobody knows what are no result
            job["metrics"] = read_metrics(directory)
        except UserError as error:
            job["reason"] = f"damaged: {error}"
    return job


def rank(job: Mapping[str, Any]) -> tuple[bool, float, int]:
    """Order jobs by validation accuracy, best first; without one by test accuracy; failed ones last."""
    metrics, number = job["metrics"], int(job["job"]) if job["job"].isdecimal() else 0
    return metrics is None, -(metrics["val"] or metrics["test"])["accuracy"] if metrics else 0.0, number


def sweep_summary(directory: Path) -> tuple[str, int]:
    """Return a table of all jobs below a sweep's directory, best first, and the number without a result."""
    jobs = [read_job(job, directory) for job in run_directories(directory)]
    if not jobs:
        return f"No job was started. Everything is in {directory}", 0
    jobs.sort(key=rank)
    common = [item for item in jobs[0]["overrides"] if all(item in job["overrides"] for job in jobs)]
    rows = [
        [job["job"], " ".join(item for item in job["overrides"] if item not in common), *cells(job)]
        for job in jobs
    ]
    failed = [job for job in jobs if job["metrics"] is None]
    order = "validation" if any(job["metrics"] and job["metrics"]["val"] for job in jobs) else "test"
    lines = [
        f"{len(jobs)} jobs, best {order} accuracy first; all with "
        f"{printable(' '.join(common)) or 'the defaults'}:",
        rendered(["job", "differs in", "val accuracy", "test accuracy", "seconds"], rows, texts=2),
        *mean_over_folds(jobs),
        *(printable(f"job {job['job']} {job['reason']}") for job in failed),
        f"Everything is in {directory}",
    ]
    return "\n".join(lines), len(failed)


def mean_over_folds(jobs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line about a cross-validation whose folds all ended; of other sweeps none."""
    folds = {next((item for item in job["overrides"] if item.startswith("data.fold=")), "") for job in jobs}
    others = {tuple(item for item in job["overrides"] if item not in folds) for job in jobs}
    if len(folds) < 2 or len(folds) < len(jobs) or len(others) > 1 or any(not job["metrics"] for job in jobs):
        return []
    said = [
        f"{split} accuracy {mean(values):.4f} ± {stdev(values):.4f}"
        for split in ("val", "test")
        if (values := [job["metrics"][split]["accuracy"] for job in jobs])
    ]
    return [f"Mean and standard deviation over {len(jobs)} folds: {', '.join(said)}"]


def cells(job: Mapping[str, Any]) -> list[str]:
    """Return a job's numbers as text; without any its state."""
    metrics = job["metrics"]
    if metrics is None:
        return [job["reason"].partition(":")[0], "-", "-"]
    val = f"{metrics['val']['accuracy']:.4f}" if metrics["val"] else "-"
    return [val, f"{metrics['test']['accuracy']:.4f}", f"{metrics['seconds']:.0f}"]
