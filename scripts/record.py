"""Keep records of finished experiments and make RESULTS.md anew: python scripts/record.py [RUN...]."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UserError, printable
from fmnist_lit.files import write_json, write_whole
from fmnist_lit.readers.command import command_line
from fmnist_lit.readers.records import file_name, make_record, read_records
from fmnist_lit.readers.results_page import (
    five_models_plot,
    measured,
    read_published,
    results_page,
    with_measured,
)

ROOT = Path(__file__).resolve().parent.parent


@command_line
def main(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="to keep a record of")] = None,
    root: Annotated[Path, typer.Option(help="where results/ and RESULTS.md are")] = ROOT,
) -> None:
    """Write records, then what is made of them: RESULTS.md, its plot, a line of each experiment."""
    folder = root / "results"
    made = {folder / file_name(record): record for record in map(make_record, runs or ())}
    records = read_records(folder, made)
    published = read_published(folder / "published.yaml")
    texts = {}
    try:  # all, before the first is written
        texts[root / "RESULTS.md"] = results_page(published, records)
        for report, content in published.items():
            for row in content["rows"]:
                path = root / "conf" / "experiment" / report / f"{row['row']}.yaml"
                line = measured(f"{report}/{row['row']}", row.get("figure"), records)
                texts[path] = with_measured(path.read_text(), line)
        plot = five_models_plot(records)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"a record lacks what its experiment's row needs: {error}.") from error
    for path, record in made.items():
        write_json(path, record)
        print(f"Kept: {printable(path)}")
    for path, text in texts.items():
        write_whole(path, text.encode())
    plot.savefig(folder / "five_models.png", dpi=80)
    print(f"RESULTS.md is made of {len(records)} records.")


if __name__ == "__main__":
    sys.exit(main())
