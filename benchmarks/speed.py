"""Measure training speed, all in turn: python benchmarks/speed.py [--models cnn_c] [--against CHECKOUT]."""

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryFile
from typing import Any

from rich.console import Console

from fmnist_lit.errors import UsageError, UserError, exit_status
from fmnist_lit.files import write_json
from fmnist_lit.provenance import versions

HERE = Path(__file__).resolve().parent
MODELS = ("mlp4", "mlp_custom", "cnn_a", "cnn_b", "cnn_c")
OURS, AGAINST = "fmnist_lit", "against"
BASELINES = ("bare", "reports_0", "reports_2", "keras", "evaluation")


class Baseline:
    """A process that measures whenever it is asked to, until the context ends."""

    def __init__(self, context: ExitStack, name: str, work: dict[str, Any], checkout: Path) -> None:
        self.name = name
        self.errors = context.enter_context(TemporaryFile("w+"))  # noqa: SIM115
        kind = OURS if name == AGAINST else name
        paths = filter(None, [os.environ.get("PYTHONPATH")])  # where packages may lie
        self.process = subprocess.Popen(
            [sys.executable, checkout / "benchmarks" / "baselines.py", kind, json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(checkout / "src"), *paths])},
        )
        context.callback(self.process.wait)
        context.callback(self.process.kill)

    def answer(self) -> str:
        """Read a line, but none that a library prints.

        Raises:
            UserError: the process ended instead; the message is its last.
        """
        for line in self.process.stdout or ():
            if line.startswith(("ready", *"0123456789")):
                return line
        self.errors.seek(0)
        raise UserError(f"{self.name} failed: {(self.errors.read().strip().splitlines() or ['-'])[-1]}")

    def measure(self) -> list[float]:
        """Return images per second and the process's peak memory in MiB."""
        print("measure", file=self.process.stdin, flush=True)
        return [float(number) for number in self.answer().split()]


def measure_all(work: dict[str, Any], names: list[str], against: Path | None, rounds: int) -> dict[str, Any]:
    """Measure in turn, several rounds; return medians of the speeds, and of our speed over each other's."""
    with ExitStack() as context:
        running = [
            Baseline(context, name, work, against if name == AGAINST and against else HERE.parent)
            for name in names
        ]
        for one in running:  # they started together
            one.answer()
        measured = [[one.measure() for one in running] for _ in range(rounds)]
    speeds = {name: [row[i][0] for row in measured] for i, name in enumerate(names)}
    memory = {name: measured[-1][i][1] for i, name in enumerate(names)}
    return work | compared(speeds) | {"peak_memory_mib": memory, "rounds": speeds}


def compared(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, with the better of the reports' two loaders; ratios are of the same round."""
    medians = {name: median(of_rounds) for name, of_rounds in speeds.items()}
    loaders = [name for name in speeds if name.startswith("reports_")]
    others = {name: name for name in speeds if name != OURS and name not in loaders}
    if loaders:
        others["reports"] = max(loaders, key=lambda name: medians[name])
    ratios = {
        title: median(ours / other for ours, other in zip(speeds[OURS], speeds[name], strict=True))
        for title, name in others.items()
    }
    return {"images_per_second": medians, "ratios": ratios}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="which are trained")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128], help="of training steps")
    parser.add_argument("--threads", nargs="+", type=int, default=[os.cpu_count()], help="of the CPU")
    parser.add_argument("--images", type=int, default=60_000, help="of an epoch, a multiple of 10")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turn")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="that trains")
    parser.add_argument("--source", help="a folder that holds Fashion-MNIST, as data.images.source")
    parser.add_argument("--against", type=Path, help="another checkout, measured in place of the baselines")
    parser.add_argument("-o", "--output", type=Path, default=Path("speed.json"), help="what is written")
    return parser.parse_args()


def measure_and_print(chosen: argparse.Namespace) -> None:
    """Measure everything, print a line each, keep JSON."""
    if min(chosen.rounds, *chosen.batch_sizes, *chosen.threads) < 1 or chosen.images % 10:
        raise UsageError(
            "--rounds, --batch-sizes and --threads must be 1 or more, --images a multiple of 10."
        )
    if chosen.against and not (chosen.against / "benchmarks" / "baselines.py").is_file():
        raise UsageError(f"--against {chosen.against}: it has no benchmarks/baselines.py.")
    baselines = [name for name in BASELINES if name != "keras" or find_spec("tensorflow")]
    names, console, results = [OURS, *([AGAINST] if chosen.against else baselines)], Console(), []
    same = {"images": chosen.images, "device": chosen.device, "source": chosen.source}
    for model, size, threads in product(chosen.models, chosen.batch_sizes, chosen.threads):
        work = same | {"model": model, "batch_size": size, "threads": threads}
        results.append(measure_all(work, names, chosen.against, chosen.rounds))
        speeds, ratios = results[-1]["images_per_second"], results[-1]["ratios"]
        words = [f"{OURS} {speeds[OURS]:,.0f}/s", *(f"/{name} {ratio:.2f}" for name, ratio in ratios.items())]
        console.print(f"{model:10} batch {size:<3} threads {threads}: ", "  ".join(words), highlight=False)
    means = {title: geometric_mean(row["ratios"][title] for row in results) for title in results[0]["ratios"]}
    console.print("geometric means:", "  ".join(f"/{title} {mean:.2f}" for title, mean in means.items()))
    write_json(chosen.output, {"versions": versions(), "training": results, "geometric_means": means})


def main() -> int:
    """Measure."""
    chosen = arguments()
    return exit_status(lambda: measure_and_print(chosen))


if __name__ == "__main__":
    sys.exit(main())
