"""One HTML page about one run or many, with everything inside: no other file, no network."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from fmnist_lit.errors import printable
from fmnist_lit.report.curves import History, curves_figure
from fmnist_lit.report.evaluation import Evaluation, text_report
from fmnist_lit.report.runs import Run, distinguishing, value_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; border: 1px solid #d0d7de; }
th { background: #f6f8fa; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; }
pre { background: #f6f8fa; padding: 1rem; overflow-x: auto; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.figures img { max-width: 37rem; }
.scroll { overflow-x: auto; }
"""


def escape(text: object, most: int = 500) -> str:
    """Return a text for HTML in which nothing is markup and nothing hidden."""
    return html.escape(printable(text, most))


class Section(NamedTuple):
    """What the page says of one run."""

    run: Run
    history: History
    evaluation: Evaluation
    figures: Mapping[str, Figure]
    config: str


def page(sections: Sequence[Section], names: Sequence[str]) -> str:
    """Return the page: what the runs differ in, their figures side by side, their curves, then each run."""
    runs = [section.run for section in sections]
    title = f"Run {names[0]}" if len(runs) == 1 else f"{len(runs)} runs"
    histories = {name: section.history for name, section in zip(names, sections, strict=True)}
    body = [
        f"<h1>{escape(title)}</h1>",
        comparison(runs, names),
        f"<h2>Epochs</h2>{image(curves_figure(histories), 'curves of each epoch')}",
        *(one_run(section, name) for section, name in zip(sections, names, strict=True)),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def comparison(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return a table: a row a run, with what it differs in and its final figures."""
    differing = distinguishing(runs)
    headings = ["run", *differing, "train", "val", "test", "test loss", "epochs", "seconds", "parameters"]
    rows = []
    for run, name in zip(runs, names, strict=True):
        m = run.metrics
        accuracies = [f"{m[part]['accuracy']:.4f}" if m[part] else "-" for part in ("train", "val", "test")]
        numbers = [
            *accuracies,
            f"{m['test']['loss']:.4f}",
            str(m["epochs"]),
            f"{m['seconds']:.0f}",
            f"{m['parameters']:,}",
        ]
        rows.append(([name, *(value_of(run, key) for key in differing)], numbers))
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = "".join(
        "<tr>"
        + "".join(f"<td>{escape(text)}</td>" for text in texts)
        + "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
        + "</tr>"
        for texts, numbers in rows
    )
    note = "Accuracy and loss of the tested checkpoint in evaluation mode. One run each (n = 1)."
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div><p>{note}</p>'


def one_run(section: Section, name: str) -> str:
    """Return a run's own part: command, classification report, figures, config."""
    metrics = section.run.metrics
    facts = f"seed {metrics['seed']}, commit {metrics['commit']}, {metrics['device']}"
    pictures = "".join(image(figure, title) for title, figure in section.figures.items())
    config = "\n".join(escape(line) for line in section.config.splitlines())
    return (
        f"<h2>{escape(name)}</h2><pre>{escape(metrics['command'], most=10_000)}</pre><p>{escape(facts)}</p>"
        f"<h3>Test images</h3><pre>{html.escape(text_report(section.evaluation))}</pre>"
        f'<div class="figures">{pictures}</div>'
        f"<details><summary>config.yaml</summary><pre>{config}</pre></details>"
    )


def image(figure: Figure, title: str) -> str:
    """Return a figure as an image inside the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(title.replace("_", " "))}" src="data:image/png;base64,{data}">'
