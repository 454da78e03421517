"""One HTML page about one run or many, with everything inside: no other file, no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from matplotlib.figure import Figure
from pandas import DataFrame

from fmnist_lit.errors import printable
from fmnist_lit.plots import curves_plot
from fmnist_lit.readers.evaluate import evaluate, plots, text_report
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.readers.tables import read_runs, unique_names, varying_keys
from fmnist_lit.readers.text import render
from fmnist_lit.run_files import read_history, read_metrics


class Section(NamedTuple):
    """What the page says of one run."""

    path: Path
    metrics: Mapping[str, Any]
    history: DataFrame
    config: str
    report: str
    plots: dict[str, str]


def read_section(path: Path, data: Path | None, trust: Sequence[str]) -> Section:
    """Read and evaluate one run.

    Args:
        data: as RunDirectory takes it, and ``trust`` likewise.

    Raises:
        UserError: it did not finish, or cannot be evaluated.
    """
    run, metrics = RunDirectory(path, data, trust), read_metrics(path)
    print(f"Evaluating {printable(path)} on the test images ...")
    evaluation = evaluate(run, "test", "best")
    config = yaml.safe_dump(run.config, sort_keys=False)
    drawn = {name.replace("_", " "): image(figure) for name, figure in plots(evaluation).items()}
    return Section(path, metrics, read_history(path), config, text_report(evaluation), drawn)


def page(sections: Sequence[Section]) -> str:
    """Return the page: what the runs differ in, their metrics side by side, their curves, then each run."""
    paths = [section.path for section in sections]
    names, runs = unique_names(paths), read_runs(paths)
    histories = {name: section.history for name, section in zip(names, sections, strict=True)}
    return render(
        "report.html",
        title=f"Run {names[0]}" if len(names) == 1 else f"{len(names)} runs",
        keys=varying_keys(runs),
        curves=image(curves_plot(histories)),
        runs=list(zip(names, runs.keys.to_dict("records"), sections, strict=True)),
    )


def image(figure: Figure) -> str:
    """Return a figure as the address of an image inside the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
