"""Tabulate all finished runs below a folder: python scripts/results.py outputs/ [--group-by KEY ...]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fmnist_lit.errors import UsageError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.command import command_line, kind_of, output_option
from fmnist_lit.readers.tables import as_csv, as_json, as_markdown, collect
from fmnist_lit.run_files import run_directories

FORMATS = {"md": as_markdown, "csv": as_csv, "json": as_json}
GROUP_BY = "groups or dotted keys that make a row; else what runs differ in"


@command_line
def main(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER [KEY]", help="of runs, sweeps or both; more of --group-by", show_default=False
        ),
    ],
    group_by: Annotated[list[str] | None, typer.Option(metavar="KEY ...", help=GROUP_BY)] = None,
    columns: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="further numbers; may be repeated")
    ] = None,
    form: Annotated[Literal["md", "csv", "json"], typer.Option("--format", help="of what is printed")] = "md",
    output: Annotated[Path | None, output_option("a .md, .csv or .json file")] = None,
) -> None:
    """Print or write one table; name runs without a result on the error stream where the table cannot."""
    kind = kind_of(output, FORMATS) if output else form
    folder = folder_among(names)
    further = [name for name in names if name != folder]
    others = [name for name in further if Path(name).is_dir() and run_directories(Path(name))]
    if others or (len(names) > 1 and not group_by):
        second = others[0] if others else names[1]
        raise UsageError(f"{second}: one folder at a time; keys stand behind --group-by.")
    results = collect(Path(folder), [*(group_by or ()), *further], columns or ())
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


def folder_among(names: list[str]) -> str:
    """Return the folder among names that may be keys: before it, behind --group-by, or after it."""
    folders = [name for name in names if Path(name).is_dir()] or names
    with_runs = (name for name in folders if len(folders) == 1 or run_directories(Path(name)))
    return next(with_runs, folders[0])


if __name__ == "__main__":
    main()
