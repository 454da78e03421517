"""Keep records of finished runs and make RESULTS.md anew: python scripts/record.py [RUN...] [--study X]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import json
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UserError, printable
from fmnist_lit.files import write_json, write_whole
from fmnist_lit.readers.claims import read_claims
from fmnist_lit.readers.command import Data, command_line
from fmnist_lit.readers.loss_curve import loss_plot, losses
from fmnist_lit.readers.overview import lines_of, overview_plot, with_table
from fmnist_lit.readers.records import (
    file_name,
    make_record,
    read_records,
    read_studies,
    read_study,
    study_rows,
    with_runs,
)
from fmnist_lit.readers.results_page import five_models_plot, headers, read_published, results_page
from fmnist_lit.run_files import run_directories

ROOT = Path(__file__).resolve().parent.parent


@command_line
def main(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="to keep; or a sweep")] = None,
    study: Annotated[
        str | None, typer.Option(help="the runs are of: a file of lines for all of them")
    ] = None,
    data: Data = None,
    root: Annotated[Path, typer.Option(help="where results/ and RESULTS.md are")] = ROOT,
) -> None:
    """Write records, then what is made of them: RESULTS.md, its plot, a line of each experiment."""
    folder = root / "results"
    paths = [path for run in runs or () for path in directories_of(run)]
    finished = [path for path in paths if len(paths) == 1 or (path / "metrics.json").exists()]
    kept = [make_record(path, data, study is not None) for path in finished]
    made = {} if study else {folder / file_name(record): record for record in kept}
    records, published = read_records(folder, made), read_published(folder / "published.yaml")
    texts = {}
    try:  # all, before the first is written
        studies = read_studies(folder / "studies")
        if study:
            path = folder / "studies" / f"{study}.jsonl"
            lines = with_runs(read_study(path), kept)
            studies[study] = study_rows(lines)
            texts[path] = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        claims = read_claims(folder / "claims.yaml")
        texts[root / "RESULTS.md"] = results_page(published, records, claims, studies)
        overview = lines_of(published, records)
        readme = root / "README.md"
        if readme.exists():
            texts[readme] = with_table(readme.read_text(encoding="utf-8"), overview)
        texts |= headers(published, records, root / "conf" / "experiment")
        rows = published.get("five_models", {}).get("rows", [])
        printed = published.get("batch_size", {}).get("losses", [])
        plots = {
            "five_models": five_models_plot(records, rows),
            "batch_size": loss_plot(printed, losses(records)),
            "overview": overview_plot(overview),
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"a record lacks what its experiment's row needs: {error}.") from error
    for path, record in made.items():
        write_json(path, record)
        print(f"Kept: {printable(path)}")
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text.encode())
    for name, plot in plots.items():
        plot.savefig(folder / f"{name}.png")
    if study:
        print(f"Kept: {len(kept)} runs of {study}")
    print(f"RESULTS.md is made of {len(records)} records.")


def directories_of(path: Path) -> list[Path]:
    """Return the runs at or below a path.

    Raises:
        UserError: there is none.
    """
    if not (found := run_directories(path)):
        raise UserError(f"{path} holds no run.")
    return found


if __name__ == "__main__":
    main()
