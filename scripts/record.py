"""Keep records of finished experiments and make RESULTS.md anew: python scripts/record.py [RUN...]."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.errors import UserError, exit_status, printable
from fmnist_lit.report.records import file_name, make_record, read_records
from fmnist_lit.report.reproduction import (
    five_models_figure,
    measured,
    read_published,
    results_page,
    with_measured,
)
from fmnist_lit.storage import write_json, write_whole

ROOT = Path(__file__).resolve().parent.parent


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Keep records of finished experiments; make RESULTS.md anew."
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="a run directory to keep a record of"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="where results/ and RESULTS.md are")
    return parser.parse_args()


def keep(runs: list[Path], root: Path) -> None:
    """Write records, then what is made of them: RESULTS.md, its figure, a line of each experiment."""
    folder = root / "results"
    made = {folder / file_name(record): record for record in map(make_record, runs)}
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
        figure = five_models_figure(records)
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"a record lacks what its experiment's row needs: {error}.") from error
    for path, record in made.items():
        write_json(path, record)
        print(f"Kept: {printable(path)}")
    for path, text in texts.items():
        write_whole(path, text.encode())
    figure.savefig(folder / "five_models.png", dpi=80)
    print(f"RESULTS.md is made of {len(records)} records.")


def main() -> int:
    """Keep."""
    chosen = arguments()
    return exit_status(lambda: keep(chosen.runs, chosen.root))


if __name__ == "__main__":
    sys.exit(main())
