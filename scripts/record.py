"""Keep records of finished runs and make RESULTS.md anew: python scripts/record.py [RUN...] [--study X]."""

import fmnist_lit.program  # noqa: F401 (first: see there)

from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.errors import UserError, printable
from fmnist_lit.files import write_whole
from fmnist_lit.readers.claims import read_claims
from fmnist_lit.readers.command import Data, command_line, study_name
from fmnist_lit.readers.loss_curve import loss_plot, losses
from fmnist_lit.readers.overview import lines_of, overview_plot, with_table
from fmnist_lit.readers.records import (
    Records,
    as_lines,
    file_of,
    make_record,
    read_lines,
    read_records,
    read_studies,
    with_runs,
)
from fmnist_lit.readers.results_page import (
    five_models_plot,
    headers,
    read_commands,
    read_published,
    results_page,
)
from fmnist_lit.run_files import run_directories

ROOT = Path(__file__).resolve().parent.parent


@command_line
def main(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN", help="to keep; or a sweep")] = None,
    study: Annotated[str | None, typer.Option(help="whose runs they are: a file for all of them")] = None,
    data: Data = None,
    root: Annotated[Path, typer.Option(help="where results/ and RESULTS.md are")] = ROOT,
) -> None:
    """Write records, then what is made of them: RESULTS.md, its plot, a line of each experiment."""
    study = None if study is None else study_name(study)
    folder = root / "results"
    paths = [path for run in runs or () for path in directories_of(run)]
    finished = [path for path in paths if len(paths) == 1 or (path / "metrics.json").exists()]
    kept: dict[Path, Records] = {}
    for path in finished:
        record = make_record(path, data, study is not None)
        kept.setdefault(folder / file_of(record, study), []).append(record)
    made = {path: with_runs(read_lines(path), records) for path, records in kept.items()}
    records = read_records(folder / "experiments", made)
    published = read_published(folder / "published.yaml")
    texts = {path: as_lines(lines) for path, lines in made.items()}
    try:  # all, before the first is written
        studies = read_studies(folder / "studies", made)
        claims = read_claims(folder / "claims.yaml")
        commands = read_commands(folder / "studies.yaml")
        texts[root / "RESULTS.md"] = results_page(published, records, claims, studies, commands).encode()
        overview = lines_of(published, records)
        readme = root / "README.md"
        if readme.exists():
            texts[readme] = with_table(readme.read_text(encoding="utf-8"), overview).encode()
        for path, text in headers(published, records, root / "conf" / "experiment").items():
            texts[path] = text.encode()
        rows = published.get("five_models", {}).get("rows", [])
        printed = published.get("batch_size", {}).get("losses", [])
        plots = {
            "five_models": five_models_plot(records, rows),
            "batch_size": loss_plot(printed, losses(records)),
            "overview": overview_plot(overview),
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"a record lacks what its experiment's row needs: {error}.") from error
    for path, content in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    for name, plot in plots.items():
        plot.savefig(folder / f"{name}.png")
    for path, runs_of_file in kept.items():
        print(f"Kept: {len(runs_of_file)} runs in {printable(path)}")
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
