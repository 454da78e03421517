"""Measure training speed: python scripts/benchmark.py [--models ...] [--batch-sizes 32,128,512]."""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fmnist_lit.benchmark.rounds import first_step, measure_all, with_reports
from fmnist_lit.benchmark.work import MODELS
from fmnist_lit.data.sources import named_folder
from fmnist_lit.errors import UsageError, choices, exit_status
from fmnist_lit.provenance import versions
from fmnist_lit.storage import write_json

TRAINERS = ("project", "bare", "reports_0", "reports_2", "keras")
RATIOS = {"/reports": "reports", "/bare": "bare", "/keras": "keras"}  # the project's speed over theirs


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure training speed and what it is compared with.")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--batch-sizes", default="32,128,512", help="default: %(default)s")
    parser.add_argument("--images", type=int, default=60_000, help="of an epoch, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender, in turn")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all cores)"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--source", type=named_folder, help="a folder that holds Fashion-MNIST, as data.images.source"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmark.json"))
    return parser.parse_args()


def table(results: list[dict[str, Any]], names: list[str]) -> Table:
    """Return the speeds and ratios to read."""
    columns = [name for name in (*names, "reports") if name not in ("reports_0", "reports_2")]
    ratios = {title: other for title, other in RATIOS.items() if other in columns}
    titles = ["model", "batch", *columns, *ratios]
    made = Table(*titles, title="Images per second in training", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for result in results:
        speeds = {name: result[name]["images_per_second"] for name in columns}
        cells = [f"{speeds[name]:,.0f}" for name in columns]
        cells += [f"{speeds['project'] / speeds[other]:.2f}" for other in ratios.values()]
        made.add_row(result["model"], str(result["batch_size"]), *cells)
    return made


def means(results: list[dict[str, Any]], names: list[str]) -> dict[str, dict[str, float]]:
    """Return the geometric means of the ratios over the models, for each batch size."""
    ratios = {title: other for title, other in RATIOS.items() if other == "reports" or other in names}
    of_size: dict[str, dict[str, float]] = {}
    for size in sorted({result["batch_size"] for result in results}):
        rows = [result for result in results if result["batch_size"] == size]
        of_size[str(size)] = {
            title: geometric_mean(
                row["project"]["images_per_second"] / row[other]["images_per_second"] for row in rows
            )
            for title, other in ratios.items()
        }
    return of_size


def benchmark(chosen: argparse.Namespace) -> None:
    """Measure everything, print tables, keep JSON."""
    models, sizes = chosen.models.split(","), chosen.batch_sizes.split(",")
    for model in models:
        if model not in MODELS:
            raise UsageError(f"--models {model}: no such model. {choices(model, MODELS)}")
    if not all(size.isdigit() and int(size) for size in sizes) or chosen.images % 10 or chosen.images < 10:
        raise UsageError("--batch-sizes takes whole numbers, --images a multiple of 10.")
    if chosen.rounds < 1 or chosen.threads < 1:
        raise UsageError("--rounds and --threads must be 1 or more.")
    names = [name for name in TRAINERS if name != "keras" or find_spec("tensorflow")]
    console, results = Console(), []
    pairs = [(model, int(size)) for model in models for size in sizes]
    for model, size in track(pairs, "training", console=Console(stderr=True), transient=True):
        work = {"model": model, "batch_size": size, "images": chosen.images, "threads": chosen.threads}
        work |= {"device": chosen.device, "source": str(chosen.source or "")}
        figures = with_reports(measure_all([*names, "evaluation"], work, chosen.rounds))
        results.append({"model": model, "batch_size": size, **figures})
    started = first_step(chosen.rounds, chosen.source)
    averages = means(results, names)
    console.print(table(results, names))
    for size_text, ratios in averages.items():
        words = ", ".join(f"{title} {ratio:.2f}" for title, ratio in ratios.items())
        console.print(f"geometric means, batch {size_text}: {words}")
    console.print(
        f"first training step after {started['first_step_s']:.1f} s; importing torch, lightning and "
        f"torchvision alone {started['imports_s']:.1f} s; ratio {started['ratio']:.2f}"
    )
    write_json(
        chosen.output,
        {
            "settings": {k: str(v) for k, v in vars(chosen).items() if k not in ("source", "output")},
            "versions": versions(),
            "training": results,
            "geometric_means": averages,
            "first_step": started,
        },
    )
    console.print(f"Kept: {chosen.output}")


def main() -> int:
    """Measure."""
    chosen = arguments()
    return exit_status(lambda: benchmark(chosen))


if __name__ == "__main__":
    sys.exit(main())
