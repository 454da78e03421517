"""Keep records of finished experiments and make RESULTS.md anew: python scripts/record.py [RUN...]."""

import argparse
import sys
from pathlib import Path

from fmnist_lit.errors import exit_status
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
    made = [make_record(path) for path in runs]  # all, before the first is written
    for record in made:
        write_json(folder / file_name(record), record)
        print(f"Kept: {folder / file_name(record)}")
    records = read_records(folder)
    published = read_published(folder / "published.yaml")
    page = results_page(published, records)
    write_whole(root / "RESULTS.md", page.encode())
    for report, content in published.items():
        for row in content["rows"]:
            path = root / "conf" / "experiment" / report / f"{row['row']}.yaml"
            line = measured(f"{report}/{row['row']}", row.get("figure"), records)
            write_whole(path, with_measured(path.read_text(), line).encode())
    five_models_figure(records).savefig(folder / "five_models.png", dpi=80)
    print(f"RESULTS.md is made of {len(records)} records.")


def main() -> int:
    """Keep."""
    chosen = arguments()
    return exit_status(lambda: keep(chosen.runs, chosen.root))


if __name__ == "__main__":
    sys.exit(main())
