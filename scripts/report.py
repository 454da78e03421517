"""Write one page about runs: python scripts/report.py RUN... -o report.html (self-contained)."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.command import Data, RunPaths, Trust, command_line
from fmnist_lit.readers.page import page, read_section


@command_line
def main(
    runs: RunPaths,
    output: Annotated[Path, typer.Option("-o", "--output")] = Path("report.html"),
    data: Data = None,
    trust: Trust = None,
) -> None:
    """Write one self-contained page about finished runs."""
    sections = [read_section(path, data, trust or ()) for path in runs]
    write_whole(output, page(sections).encode())
    print(f"Written: {printable(output)}")


if __name__ == "__main__":
    sys.exit(main())
