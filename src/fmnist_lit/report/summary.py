"""Tables for the terminal: of one run, and of all jobs of a sweep."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fmnist_lit.errors import UserError, printable
from fmnist_lit.report.run_directory import checked_config
from fmnist_lit.report.run_files import read_metrics, read_overrides, why_unfinished
from fmnist_lit.report.runs import run_directories


def summary(directory: Path, metrics: Mapping[str, Any]) -> str:
    """Return a finished run's figures as a table to print."""
    table = Table("part")
    table.add_column("accuracy", justify="right")
    table.add_column("loss", justify="right")
    for part in ("train", "val", "test"):
        figures = metrics[part]
        if figures is None:
            table.add_row(part, "-", "-")
        else:
            table.add_row(part, f"{figures['accuracy']:.4f}", f"{figures['loss']:.4f}")
    return "\n".join(
        [
            "The best checkpoint in evaluation mode:",
            rendered(table),
            f"{metrics['epochs']} epochs, {metrics['seconds']:.0f} s, "
            f"{metrics['images_per_second']:,.0f} images/s, {metrics['parameters']:,} parameters, "
            f"seed {metrics['seed']}",
            f"Everything is in {directory}",
        ]
    )


def rendered(table: Table) -> str:
    """Return a table as text, as wide as the terminal."""
    console = Console(file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def read_job(directory: Path, sweep: Path) -> dict[str, Any]:
    """Read one job of a sweep: its overrides, and its metrics or the reason why it has none."""
    try:
        overrides = read_overrides(directory)
    except UserError:
        overrides = ["(overrides unknown)"]
    metrics, reason = None, why_unfinished(directory)
    try:
        if reason is None:
            checked_config(directory)  # figures of nobody knows what are no result
            metrics = read_metrics(directory)
    except UserError as error:
        reason = f"damaged: {error}"
    return {
        "job": str(directory.relative_to(sweep)),
        "overrides": overrides,
        "metrics": metrics,
        "reason": reason,
    }


def rank(job: Mapping[str, Any]) -> tuple[bool, float]:
    """Order jobs by validation accuracy, best first; without one by test accuracy; failed ones last."""
    if job["metrics"] is None:
        return (True, 0.0)
    return (False, -(job["metrics"]["val"] or job["metrics"]["test"])["accuracy"])


def sweep_summary(directory: Path) -> tuple[str, int]:
    """Return a table of all jobs below a sweep's directory, best first, and the number without a result."""
    jobs = [read_job(job, directory) for job in run_directories(directory)]
    if not jobs:
        return f"No job was started. Everything is in {directory}", 0
    jobs.sort(key=lambda job: (*rank(job), int(job["job"]) if job["job"].isdecimal() else 0))
    common = [item for item in jobs[0]["overrides"] if all(item in job["overrides"] for job in jobs)]
    table = Table("job")
    table.add_column("differs in", overflow="fold")
    for name in ("val accuracy", "test accuracy", "seconds"):
        table.add_column(name, justify="right")
    for job in jobs:
        differs = " ".join(item for item in job["overrides"] if item not in common)
        table.add_row(Text(printable(job["job"])), Text(printable(differs)), *sweep_figures(job))
    failed = [job for job in jobs if job["metrics"] is None]
    order = "validation" if any(job["metrics"] and job["metrics"]["val"] for job in jobs) else "test"
    with_all = printable(" ".join(common)) or "the defaults"
    lines = [
        f"{len(jobs)} jobs, best {order} accuracy first; all with {with_all}:",
        rendered(table),
        *(printable(f"job {job['job']} {job['reason']}") for job in failed),
        f"Everything is in {directory}",
    ]
    return "\n".join(lines), len(failed)


def sweep_figures(job: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a job's cells; without figures its state."""
    metrics = job["metrics"]
    if metrics is None:
        return (job["reason"].partition(":")[0].partition(";")[0], "-", "-")
    val = f"{metrics['val']['accuracy']:.4f}" if metrics["val"] else "-"
    return (val, f"{metrics['test']['accuracy']:.4f}", f"{metrics['seconds']:.0f}")
