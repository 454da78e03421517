"""Tabulate all finished runs below a folder: python scripts/results.py outputs/ [--group-by KEY ...]."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fmnist_lit.errors import UsageError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.command import command_line, kind_of, output_option
from fmnist_lit.readers.tables import as_csv, as_json, as_markdown, collect

FORMATS = {"md": as_markdown, "csv": as_csv, "json": as_json}
GROUP_BY = "groups or dotted keys that make a row; else what runs differ in"


@command_line
def main(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="of runs, sweeps or both", show_default=False)
    ],
    further: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="more of --group-by")] = None,
    group_by: Annotated[list[str] | None, typer.Option(metavar="KEY ...", help=GROUP_BY)] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="further numbers; may be repeated")
    ] = None,
    form: Annotated[Literal["md", "csv", "json"], typer.Option("--format", help="of what is printed")] = "md",
    output: Annotated[Path | None, output_option("a .md, .csv or .json file")] = None,
) -> None:
    """Print or write one table; name runs without a result on the error stream where the table cannot."""
    kind = kind_of(output, FORMATS) if output else form
    if further and not group_by:
        raise UsageError(f"{further[0]}: one folder at a time; keys stand behind --group-by.")
    results = collect(folder, [*(group_by or ()), *(further or ())], columns or ())
    text = FORMATS[kind](results)
    if output:
        write_whole(output, text.encode())
        counts = f"{len(results.rows)} rows, {len(results.without)} runs without a result"
        print(f"{counts}: {printable(output)}")
    else:
        print(text, end="")
    if kind == "csv":
        for path, reason in results.without:
            print(f"without a result: {printable(path)}: {printable(reason)}", file=sys.stderr)
        for path, trials in results.searches.items():
            print(f"kept apart: {printable(path)}: {trials} trials of a search", file=sys.stderr)


if __name__ == "__main__":
    main()
