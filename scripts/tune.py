"""Search configs for the best validation accuracy: python scripts/tune.py conf/search/learning_rate.yaml."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from fmnist_lit.config import CONF
from fmnist_lit.errors import UsageError
from fmnist_lit.readers.command import command_line, study_name
from fmnist_lit.summary import rendered

EXPERIMENTS = CONF / "experiment"


@command_line
def main(
    space: Annotated[Path, typer.Argument(help="a YAML file: conf/search/learning_rate.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="of every trial: threads=1")] = None,
    trials: Annotated[int, typer.Option(min=1, help="of the whole study")] = 20,
    study: Annotated[str | None, typer.Option(help="its name, if not that of the file")] = None,
    output_dir: Path = Path("outputs"),
) -> None:
    """Search configs for the best validation accuracy; print the best trials, write an experiment.

    The same command, started again or several times at once, on machines that share the folder too, goes on
    with the same study. The experiment trains at full length, with the usual logger.
    """
    name = study_name(space.stem if study is None else study)
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError("Optuna is missing: pip install -e .[sweep]") from error
    from fmnist_lit.search import optimize, read_search, write_experiment

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what ends a trial is ours to tell
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fmnist_lit.search").setLevel(logging.INFO)
    search = read_search(space, overrides or ())
    folder = output_dir.expanduser() / "tune" / name
    path = EXPERIMENTS / "tuned" / f"{name}.yaml"
    found = optimize(search, folder, name, trials, path)
    complete = [trial for trial in found.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    if not complete:
        raise UsageError(f"{name}: no trial ended with a figure.")
    best = sorted(complete, key=lambda trial: trial.values, reverse=True)[:10]
    print(f"{name}: {len(found.trials)} trials, the best:")
    headings = ["trial", "val accuracy", *search.space]
    rows = [
        [str(trial.number), f"{trial.value:.4f}", *(str(trial.params[key]) for key in search.space)]
        for trial in best
    ]
    print(rendered(headings, rows, texts=len(headings)))
    write_experiment(found, search, path)
    print(f"To train it: python train.py experiment=tuned/{name}")


if __name__ == "__main__":
    sys.exit(main())
