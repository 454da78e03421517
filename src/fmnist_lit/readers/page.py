"""One HTML page about one run or many, with everything inside: no other file, no network."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from fmnist_lit.errors import printable
from fmnist_lit.models.layer_table import layer_table
from fmnist_lit.plots import curves_plot, file_content
from fmnist_lit.readers.architecture import architecture_plot
from fmnist_lit.readers.evaluate import evaluate, plots, text_report
from fmnist_lit.readers.run_directory import RunDirectory
from fmnist_lit.readers.tables import as_runs, read_run, unique_names, varying_keys
from fmnist_lit.readers.text import render
from fmnist_lit.run_files import read_history, read_metrics


def page(paths: Sequence[Path], data: Path | None, trust: Sequence[str]) -> str:
    """Return the page: what the runs differ in, their metrics side by side, their curves, then each run.

    Args:
        data: as RunDirectory takes it, and ``trust`` likewise.

    Raises:
        UserError: a run did not finish, or cannot be evaluated.
    """
    sections = [section(path, data, trust) for path in paths]
    names, runs = unique_names(paths), as_runs([read_run(path) for path in paths])
    histories = {name: of["history"] for name, of in zip(names, sections, strict=True)}
    return render(
        "report.html",
        title=f"Run {names[0]}" if len(names) == 1 else f"{len(names)} runs",
        keys=varying_keys(runs),
        curves=image(curves_plot(histories)),
        runs=list(zip(names, runs.keys.to_dict("records"), sections, strict=True)),
    )


def section(path: Path, data: Path | None, trust: Sequence[str]) -> dict[str, Any]:
    """Return what the page says of one run."""
    run, metrics = RunDirectory(path, data, trust), read_metrics(path)
    print(f"Evaluating {printable(path)} on the test images ...")
    evaluation = evaluate(run, "test", "best")
    layers = layer_table(run.untrained_model(len(evaluation.classes)))
    figures = {"architecture": architecture_plot(layers), **plots(evaluation)}
    return {
        "metrics": metrics,
        "history": read_history(path),
        "config": yaml.safe_dump(run.config, sort_keys=False),
        "report": text_report(evaluation),
        "plots": {name.replace("_", " "): image(figure) for name, figure in figures.items()},
    }


def image(figure: Figure) -> str:
    """Return a figure as the address of an image inside the page."""
    return f"data:image/png;base64,{base64.b64encode(file_content(figure, dpi=100)).decode()}"
