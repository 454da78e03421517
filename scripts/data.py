"""Get Fashion-MNIST, verify every byte and keep it: python scripts/data.py [FOLDER]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.data.sources import in_memory, obtain
from fmnist_lit.errors import printable
from fmnist_lit.logs import log_to_console
from fmnist_lit.readers.command import command_line, named_folder


@command_line
def main(
    folder: Annotated[
        Path, typer.Argument(parser=named_folder, metavar="FOLDER", help="where it is kept")
    ] = Path("data"),
    source: Annotated[
        Path | None,
        typer.Option(parser=named_folder, metavar="FOLDER", help="that already holds the four files"),
    ] = None,
) -> None:
    """Get Fashion-MNIST into a folder and say where it is."""
    log_to_console()
    images = in_memory(obtain(folder, source))
    found = f"{len(images.train)} training, {len(images.test)} test images"
    print(f"Fashion-MNIST is whole in {printable(folder)}: {found}.")


if __name__ == "__main__":
    main()
