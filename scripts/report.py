"""Write one page about runs: python scripts/report.py RUN... -o report.html (self-contained)."""

from pathlib import Path
from typing import Annotated

from fmnist_lit.errors import printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.command import Data, RunPaths, Trust, command_line, output_option
from fmnist_lit.readers.page import page


@command_line
def main(
    runs: RunPaths,
    output: Annotated[Path, output_option("an HTML file")] = Path("report.html"),
    data: Data = None,
    trust: Trust = None,
) -> None:
    """Write one self-contained page about finished runs."""
    write_whole(output, page(runs, data, trust or ()).encode())
    print(f"Written: {printable(output)}")


if __name__ == "__main__":
    main()
