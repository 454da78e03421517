"""Name what images show: python scripts/predict.py RUN IMAGE... (a picture, a folder of them, or IDX)."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os.path import realpath
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image

from fmnist_lit.errors import UsageError, UserError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.plots import SEEN, file_content, literal, seen_plot
from fmnist_lit.readers.command import (
    Checkpoint,
    Run,
    Trust,
    command_line,
    kind_of,
    output_option,
    take_free_threads,
)
from fmnist_lit.readers.image_io import Picture, Unread, pictures_below, read_pictures
from fmnist_lit.readers.predict import Predictor, answer, benchmark, predict
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.readers.text import no_formula
from fmnist_lit.summary import rendered

SPEED = """\
One image: median {latency_median_ms:.3f} ms, 99th percentile {latency_p99_ms:.3f} ms.
Batches of {batch_size}: {images_per_second:,.0f} images/s. CPU threads: {threads}."""
BACKGROUND = "--background light|dark sets it. IDX files are taken as they are, light on dark."
TITLE = "fmnist-lit: what a network saw"  # by which --show knows its own file
HANDFUL = 5  # kinds of files that a line names

Answer = dict[str, Any]


@partial(command_line, values={"--show": "seen.png"})
def main(
    run: Run,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE", help="a picture, a folder or an IDX file")
    ] = None,
    checkpoint: Checkpoint = "best",
    trust: Trust = None,
    background: Annotated[
        Literal["auto", "light", "dark"], typer.Option(help="of the images; auto judges each by its border")
    ] = "auto",
    json_form: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
    csv_form: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    limit: Annotated[
        int, typer.Option(min=1, help="rows of the table; --json and --csv have all images")
    ] = 20,
    show: Annotated[
        Path | None, output_option("draw what the network saw; seen.png if no FILE is named", "--show")
    ] = None,
    bench: Annotated[bool, typer.Option("--bench", help="measure latency and throughput instead")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of the CPU; if left out, one for each idle core")
    ] = None,
) -> None:
    """Name what images show, with a finished run's model. What cannot be read keeps nothing else from it."""
    if not images and not bench:
        raise UsageError("name at least one IMAGE, or --bench")
    if json_form and csv_form:
        raise UsageError("--json or --csv, not both")
    form = "json" if json_form else "csv" if csv_form else ""
    if show:
        require_drawing(show)
    take_free_threads(threads)
    predictor = Predictor(RunDirectory(run, trust=trust or ()), checkpoint)
    if bench:
        speed = benchmark(predictor)
        print(json.dumps(speed, indent=2) if json_form else SPEED.format(**speed))
        return
    drawn = realpath(show or "")
    files = [path for path in files_of(images or ()) if show is None or realpath(path) != drawn]
    read = [item for path in files for item in read_pictures(path, background)]
    pictures = [item for item in read if isinstance(item, Picture)]
    faults = [printable(item.reason) for item in read if isinstance(item, Unread)]
    answers = answers_to(read, predictor)
    good = [given for given in answers if "class" in given]
    if form == "json":
        print(json.dumps(answers, indent=2, allow_nan=False))
    elif form == "csv":
        print(as_csv(answers), end="")
    elif good:
        how = "judged by each border" if background == "auto" else "as you said"
        print(f"{as_table(good, limit)}\nBackground {how}; {BACKGROUND}")
    if show and good:
        said = draw(show, pictures, [given["class"] for given in good])
        print(said, file=sys.stderr if form else sys.stdout)
    if faults:
        heading = [f"{len(faults)} of {len(read)} images got no answer:"] if len(read) > 1 else []
        raise UserError("\n".join([*heading, *faults]))


def require_drawing(path: Path) -> None:
    """Refuse to draw over anything else: an IMAGE behind --show would be lost.

    Raises:
        UsageError: there is another file.
    """
    kind_of(path, ("png",), "--show")
    try:
        with Image.open(path) as drawn:
            ours = drawn.info.get("Title") == TITLE
    except (OSError, ValueError):
        ours = not path.exists()
    if not ours:
        raise UsageError(f"--show {path}: there is a file already that --show did not draw. Name a new one.")


def draw(path: Path, pictures: list[Picture], classes: list[str]) -> str:
    """Draw what the network saw, and return what to say of it."""
    names = [literal(Path(picture.name).name[-18:], 18) for picture in pictures]
    titles = [f"{literal(name, 18)}\n{of}" for name, of in zip(classes, names, strict=True)]
    seen = np.stack([picture.pixels.numpy() for picture in pictures])
    write_whole(path, file_content(seen_plot(seen, titles), Title=TITLE))
    few = f", the first {SEEN} of {len(seen):,} images" if len(seen) > SEEN else ""
    return f"Drawn: {printable(path)}{few}"


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return what is to be read, of a folder the pictures in it; say what else is there."""
    files = []
    for path in paths:
        pictures, others = pictures_below(path) if path.is_dir() else ([path], [])
        files += pictures or [path]
        if pictures and others:
            kinds = sorted({other.suffix or other.name for other in others})
            named = ", ".join(kinds[:HANDFUL]) + (", ..." if len(kinds) > HANDFUL else "")
            said = f"{path}: {len(others)} files left out, no pictures by their names: {named}"
            print(printable(said), file=sys.stderr)
    return files


def answers_to(read: Sequence[Picture | Unread], predictor: Predictor) -> list[Answer]:
    """Return a class for each picture, and a reason for what gave none, in their order."""
    pixels = [item.pixels for item in read if isinstance(item, Picture)]
    probabilities = iter(predict(predictor, torch.stack(pixels)) if pixels else ())
    return [
        {"image": item.name, "background": item.background} | answer(next(probabilities), predictor.classes)
        if isinstance(item, Picture)
        else {"image": item.name, "error": item.reason}
        for item in read
    ]


def as_csv(answers: Iterable[Answer]) -> str:
    """Return a row for each image: its class and how probable it is, or why there is none."""
    from pandas import DataFrame  # half a second, which others do not wait

    none = {"": None}
    rows = [given | {"probability": max(given.get("probabilities", none).values())} for given in answers]
    table = DataFrame(rows, columns=["image", "background", "class", "probability", "error"])
    return str(table.map(no_formula).to_csv(index=False))


def as_table(answers: Sequence[Answer], limit: int) -> str:
    """Return the first answers as a table; of more the classes, too, and how often each was given."""
    rows = [
        [given["image"], given["background"], given["class"], likely(given["probabilities"])]
        for given in answers[:limit]
    ]
    table = rendered(["image", "background", "class", "probabilities"], rows, texts=4)
    if len(answers) <= limit:
        return table
    counts = Counter(given["class"] for given in answers)
    classes = [[name, f"{count:,}", f"{count / len(answers):.1%}"] for name, count in counts.most_common()]
    return (
        f"{table}\nThe first {limit} of {len(answers):,} images; --limit, --csv and --json show more. All of "
        f"them:\n{rendered(['class', 'images', 'share'], classes)}"
    )


def likely(probabilities: Mapping[str, float]) -> str:
    """Return the three most probable classes."""
    best = sorted(probabilities, key=lambda name: -probabilities[name])[:3]
    return ", ".join(f"{name} {probabilities[name]:.1%}" for name in best)


if __name__ == "__main__":
    main()
