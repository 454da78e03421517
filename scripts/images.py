"""Draw the first images of a data set, and how many each class has: python scripts/images.py [FOLDER]."""

import io
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fmnist_lit.data.idx import idx
from fmnist_lit.data.sources import Unavailable, stored
from fmnist_lit.errors import UsageError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.plots import images_plot
from fmnist_lit.readers.command import command_line


@command_line
def main(
    folder: Annotated[Path, typer.Argument(help="of four IDX files")] = Path("data"),
    split: Annotated[Literal["train", "test"], typer.Option(help="whose images")] = "train",
    output: Annotated[Path, typer.Option("-o", "--output", help="a PNG file")] = Path("images.png"),
) -> None:
    """Draw 50 images with their classes above the number of images of each class."""
    if output.suffix != ".png":
        raise UsageError(f"-o {output}: its name must end in .png.")
    try:
        images = stored(folder)
    except Unavailable:  # another data set
        images = idx(str(folder))
    if split == "train":
        pixels, labels = images.train, images.train_labels
    else:
        pixels, labels = images.test, images.test_labels
    drawn = io.BytesIO()
    images_plot(pixels.numpy(), labels.numpy(), images.classes, split).savefig(drawn, format="png", dpi=120)
    write_whole(output, drawn.getvalue())
    print(f"Drawn: {printable(output)}")


if __name__ == "__main__":
    sys.exit(main())
