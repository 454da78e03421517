"""Draw the first images of a data set, and how many each class has: python scripts/images.py [FOLDER]."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fmnist_lit.data.idx import idx
from fmnist_lit.data.sources import Unavailable, stored
from fmnist_lit.errors import printable
from fmnist_lit.files import write_whole
from fmnist_lit.plots import file_content, images_plot
from fmnist_lit.readers.command import command_line, kind_of, output_option


@command_line
def main(
    folder: Annotated[Path, typer.Argument(help="of four IDX files")] = Path("data"),
    split: Annotated[Literal["train", "test"], typer.Option(help="whose images")] = "train",
    output: Annotated[Path, output_option("a PNG file")] = Path("images.png"),
) -> None:
    """Draw 50 images with their classes above the number of images of each class."""
    kind = kind_of(output, ("png",))
    try:
        data = stored(folder)
    except Unavailable:  # another data set
        data = idx(str(folder))
    images, labels = {"train": (data.train, data.train_labels), "test": (data.test, data.test_labels)}[split]
    figure = images_plot(images.numpy(), labels.numpy(), data.classes, split)
    write_whole(output, file_content(figure, kind))
    print(f"Drawn: {printable(output)}")


if __name__ == "__main__":
    main()
