"""Name what images show: python scripts/predict.py RUN IMAGE... (PNG, JPEG, a folder of them, or IDX)."""

import json
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from fmnist_lit.errors import UsageError
from fmnist_lit.readers.command import Checkpoint, Run, Trust, command_line
from fmnist_lit.readers.image_io import Picture, read_pictures
from fmnist_lit.readers.predict import Predictor, answer, benchmark, predict
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.summary import rendered


@command_line
def main(
    run: Run,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="PNG, JPEG, folder or IDX file")
    ] = None,
    checkpoint: Checkpoint = "best",
    trust: Trust = None,
    background: Annotated[
        Literal["auto", "light", "dark"], typer.Option(help="of the images; auto judges each by its border")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    bench: Annotated[bool, typer.Option("--bench", help="measure latency and throughput instead")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of the CPU; PyTorch's choice if left out")
    ] = None,
) -> None:
    """Name what images show, with a finished run's model."""
    if not images and not bench:
        raise UsageError("name at least one IMAGE, or --bench")
    if threads:
        torch.set_num_threads(threads)
    predictor = Predictor(RunDirectory(run, trust=trust or ()), checkpoint)
    if bench:
        show_benchmark(benchmark(predictor), as_json)
        return
    pictures = [picture for path in images or () for picture in read_pictures(path, background)]
    probabilities = predict(predictor, torch.stack([picture.pixels for picture in pictures]))
    answers = [answer(of, predictor.classes) for of in probabilities]
    if as_json:
        heads = ({"image": picture.name, "background": picture.background} for picture in pictures)
        print(json.dumps([head | given for head, given in zip(heads, answers, strict=True)], indent=2))
        return
    print(prediction_table(pictures, answers))
    how = "judged by each border" if background == "auto" else "as you said"
    print(
        f"Background {how}; --background light|dark sets it. IDX files are taken as they are, light on dark."
    )


def prediction_table(pictures: list[Picture], answers: list[dict]) -> str:
    """Return a row an image: the class, then the three most probable ones."""
    rows = []
    for picture, given in zip(pictures, answers, strict=True):
        likely = sorted(given["probabilities"].items(), key=lambda item: -item[1])[:3]
        words = ", ".join(f"{name} {p:.1%}" for name, p in likely)
        rows.append([picture.name, picture.background, given["class"], words])
    return rendered(["image", "background", "class", "probabilities"], rows, texts=4)


def show_benchmark(speed: dict[str, float], as_json: bool) -> None:
    """Print how fast answers come."""
    if as_json:
        print(json.dumps(speed, indent=2))
        return
    print(
        f"One image: median {speed['latency_median_ms']:.3f} ms, "
        f"99th percentile {speed['latency_p99_ms']:.3f} ms.\n"
        f"Batches of {speed['batch_size']}: {speed['images_per_second']:,.0f} images/s. "
        f"CPU, {speed['threads']} threads."
    )


if __name__ == "__main__":
    main()
