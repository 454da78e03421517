"""Name what images show: python scripts/predict.py RUN IMAGE... (PNG, JPEG, a folder of them, or IDX)."""

import json
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from fmnist_lit.errors import UsageError
from fmnist_lit.readers.command import Checkpoint, Run, Trust, command_line
from fmnist_lit.readers.image_io import read_pictures
from fmnist_lit.readers.predict import Predictor, answer, benchmark, predict
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.summary import rendered

SPEED = """\
One image: median {latency_median_ms:.3f} ms, 99th percentile {latency_p99_ms:.3f} ms.
Batches of {batch_size}: {images_per_second:,.0f} images/s. CPU, {threads} threads."""


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
        speed = benchmark(predictor)
        print(json.dumps(speed, indent=2) if as_json else SPEED.format(**speed))
        return
    pictures = [picture for path in images or () for picture in read_pictures(path, background)]
    probabilities = predict(predictor, torch.stack([picture.pixels for picture in pictures]))
    answers = [
        {"image": picture.name, "background": picture.background} | answer(of, predictor.classes)
        for picture, of in zip(pictures, probabilities, strict=True)
    ]
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    rows = [
        [given["image"], given["background"], given["class"], likely(given["probabilities"])]
        for given in answers
    ]
    print(rendered(["image", "background", "class", "probabilities"], rows, texts=4))
    how = "judged by each border" if background == "auto" else "as you said"
    print(
        f"Background {how}; --background light|dark sets it. IDX files are taken as they are, light on dark."
    )


def likely(probabilities: dict[str, float]) -> str:
    """Return the three most probable classes."""
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:3]
    return ", ".join(f"{name} {probabilities[name]:.1%}" for name in best)


if __name__ == "__main__":
    main()
