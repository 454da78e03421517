"""Tabulate all finished runs below a folder: python scripts/results.py outputs/ [--group-by KEY ...]."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.errors import UsageError, exit_status, printable
from fmnist_lit.report.results import as_csv, as_json, as_markdown, collect
from fmnist_lit.storage import write_whole

FORMATS = {"md": as_markdown, "csv": as_csv, "json": as_json}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="One table over all finished runs below a folder.")
    parser.add_argument("folder", type=Path, help="a folder of runs, sweeps or both")
    parser.add_argument(
        "--group-by",
        nargs="+",
        default=[],
        metavar="KEY",
        help="config groups or dotted keys that make a row (default: whatever runs differ in, but the seed)",
    )
    parser.add_argument("--format", choices=FORMATS, default="md", help="of what is printed (default: md)")
    parser.add_argument(
        "-o", "--output", type=Path, help="write to a file ending in .md, .csv or .json instead"
    )
    return parser.parse_args()


def tabulate(chosen: argparse.Namespace) -> None:
    """Print or write the table; name runs without a result on the error stream where the table cannot."""
    kind = chosen.output.suffix[1:] if chosen.output else chosen.format
    if kind not in FORMATS:
        raise UsageError(
            f"-o {chosen.output}: its name must end in {', '.join('.' + name for name in FORMATS)}."
        )
    results = collect(chosen.folder, chosen.group_by)
    text = FORMATS[kind](results)
    if chosen.output:
        write_whole(chosen.output, text.encode())
        counts = f"{len(results.rows)} rows, {len(results.without)} runs without a result"
        print(f"{counts}: {printable(chosen.output)}")
    else:
        print(text, end="")
    if kind == "csv":
        for path, reason in results.without:
            print(f"without a result: {printable(path)}: {printable(reason)}", file=sys.stderr)
        for path, trials in results.searches.items():
            print(f"kept apart: {printable(path)}: {trials} trials of a search", file=sys.stderr)


def main() -> int:
    """Tabulate."""
    chosen = arguments()
    return exit_status(lambda: tabulate(chosen))


if __name__ == "__main__":
    sys.exit(main())
