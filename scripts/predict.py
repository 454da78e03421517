"""Name what pictures show: python scripts/predict.py RUN IMAGE... (PNG, JPEG, a folder of them, or IDX)."""

import argparse
import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fmnist_lit.errors import exit_status, printable
from fmnist_lit.report.pictures import BACKGROUNDS, Picture, read_pictures
from fmnist_lit.report.prediction import Predictor, answer, benchmark, predict
from fmnist_lit.report.run_directory import CHECKPOINTS, RunDirectory


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Name what pictures show, with a finished run's model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="PNG, JPEG, folder or IDX file")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="best")
    parser.add_argument(
        "--background",
        choices=BACKGROUNDS,
        default="auto",
        help="of the pictures; auto judges each by its border, and the answer says what was assumed",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--bench", action="store_true", help="measure latency and throughput instead")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's choice)")
    chosen = parser.parse_args()
    if not chosen.images and not chosen.bench:
        parser.error("name at least one IMAGE, or --bench")
    if chosen.threads is not None and chosen.threads < 1:
        parser.error("--threads must be 1 or more")
    return chosen


def show_predictions(chosen: argparse.Namespace, predictor: Predictor) -> None:
    """Print each picture's class and probabilities."""
    pictures = [picture for path in chosen.images for picture in read_pictures(path, chosen.background)]
    answers = [answer(p) for p in predict(predictor, torch.stack([picture.pixels for picture in pictures]))]
    if chosen.json:
        heads = ({"image": picture.name, "background": picture.background} for picture in pictures)
        print(json.dumps([head | given for head, given in zip(heads, answers, strict=True)], indent=2))
        return
    Console().print(prediction_table(pictures, answers))
    how = "judged by each border" if chosen.background == "auto" else "as you said"
    print(
        f"Background {how}; --background light|dark sets it. IDX files are taken as they are, light on dark."
    )


def prediction_table(pictures: list[Picture], answers: list[dict]) -> Table:
    """Return a row a picture: the class, then the three most probable ones."""
    table = Table()
    for heading in ("image", "background", "class", "probabilities"):
        table.add_column(heading, overflow="fold")
    for picture, given in zip(pictures, answers, strict=True):
        likely = sorted(given["probabilities"].items(), key=lambda item: -item[1])[:3]
        words = ", ".join(f"{name} {p:.1%}" for name, p in likely)
        table.add_row(Text(printable(picture.name)), picture.background, given["class"], words)
    return table


def show_benchmark(chosen: argparse.Namespace, predictor: Predictor) -> None:
    """Print how fast answers come."""
    speed = benchmark(predictor)
    if chosen.json:
        print(json.dumps(speed, indent=2))
        return
    print(
        f"One image: median {speed['latency_median_ms']:.3f} ms, "
        f"99th percentile {speed['latency_p99_ms']:.3f} ms.\n"
        f"Batches of {speed['batch_size']}: {speed['images_per_second']:,.0f} images/s. "
        f"CPU, {speed['threads']} threads."
    )


def main() -> int:
    """Predict or measure."""
    chosen = arguments()

    def work() -> None:
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
        predictor = Predictor(RunDirectory(chosen.run), chosen.checkpoint)
        (show_benchmark if chosen.bench else show_predictions)(chosen, predictor)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
