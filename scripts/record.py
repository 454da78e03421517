"""Keep records of finished runs and make RESULTS.md anew: python scripts/record.py [RUN...] [--study X]."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UserError, printable
from fmnist_lit.files import write_json, write_whole
from fmnist_lit.readers.claims import as_rows, read_claims, read_studies
from fmnist_lit.readers.command import Data, command_line
from fmnist_lit.readers.loss_curve import loss_plot, losses
from fmnist_lit.readers.records import as_lines, file_name, make_record, read_records, read_study, with_runs
from fmnist_lit.readers.results_page import (
    five_models_plot,
    measured,
    read_published,
    results_page,
    with_measured,
)
from fmnist_lit.readers.tables import run_directories

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
    paths = [path for run in runs or () for path in run_directories(run)]
    finished = [path for path in paths if len(paths) == 1 or (path / "metrics.json").exists()]
    kept = [make_record(path, data, study is not None) for path in finished]
    made = {} if study else {folder / file_name(record): record for record in kept}
    records = read_records(folder, made)
    published = read_published(folder / "published.yaml")
    texts = {}
    whole = as_rows([record for record in records if not record["overrides"]])
    studies = read_studies(folder / "studies") | {None: whole}
    if study:
        path = folder / "studies" / f"{study}.jsonl"
        of_study = with_runs(read_study(path), kept)
        studies[study], texts[path] = as_rows(of_study), as_lines(of_study)
    try:  # all, before the first is written
        claims = read_claims(folder / "claims.yaml")
        texts[root / "RESULTS.md"] = results_page(published, records, claims, studies)
        for report, content in published.items():
            for row in content["rows"]:
                path = root / "conf" / "experiment" / report / f"{row['row']}.yaml"
                line = measured(f"{report}/{row['row']}", row.get("figure"), records)
                texts[path] = with_measured(path.read_text(), line)
        printed = published.get("batch_size", {}).get("losses", [])
        plots = {"five_models": five_models_plot(records), "batch_size": loss_plot(printed, losses(records))}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"a record lacks what its experiment's row needs: {error}.") from error
    for path, record in made.items():
        write_json(path, record)
        print(f"Kept: {printable(path)}")
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        write_whole(path, text.encode())
    for name, plot in plots.items():
        plot.savefig(folder / f"{name}.png", dpi=80)
    if study:
        print(f"Kept: {len(kept)} runs of {study}")
    print(f"RESULTS.md is made of {len(records)} records.")


if __name__ == "__main__":
    sys.exit(main())
