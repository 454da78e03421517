"""Search configs for the best validation accuracy: python scripts/tune.py conf/search/learning_rate.yaml."""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fmnist_lit.constraints import folder_name
from fmnist_lit.errors import UsageError, exit_status
from fmnist_lit.files import write_whole

EXPERIMENTS = Path(__file__).resolve().parent.parent / "conf" / "experiment"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Search configs for the best validation accuracy. The same command, started again or "
        "several times at once, goes on with the same study."
    )
    parser.add_argument("space", type=Path, help="a YAML file: conf/search/learning_rate.yaml")
    parser.add_argument("overrides", nargs="*", help="further overrides of every trial: threads=1")
    parser.add_argument("--trials", type=int, default=20, help="of the whole study (default: %(default)s)")
    parser.add_argument("--study", help="its name (default: that of the file)")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), help="default: %(default)s")
    parser.add_argument("--storage", help="a database for workers on several machines (default: a file)")
    parser.add_argument("--seed", type=int, help="of the sampler; not the same for two workers")
    return parser.parse_intermixed_args()


def tune(chosen: argparse.Namespace) -> None:
    """Search, print the best trials, and write the best as an experiment."""
    if chosen.trials < 1:
        raise UsageError("--trials must be 1 or more.")
    name = chosen.space.stem if chosen.study is None else chosen.study
    try:
        folder_name(name)
    except ValueError as error:
        raise UsageError(
            f"--study {name!r}: it must be {error}; a folder and an experiment get it."
        ) from error
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError("Optuna is missing: pip install -e .[sweep]") from error
    from fmnist_lit.search import experiment, optimize
    from fmnist_lit.search_space import read_search

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what ends a trial is ours to tell
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats
    logging.getLogger("fmnist_lit.search").setLevel(logging.INFO)
    search = read_search(chosen.space, chosen.overrides)
    folder = chosen.output_dir / "tune" / name
    folder.mkdir(parents=True, exist_ok=True)
    storage = chosen.storage or folder / "study.db"
    study = optimize(search, folder, name, storage, chosen.trials, chosen.seed)
    complete = [trial for trial in study.trials if trial.value is not None and trial.state.name == "COMPLETE"]
    if not complete:
        raise UsageError(f"{name}: no trial ended with a figure.")
    table = Table(
        "trial", "val accuracy", *search.space, title=f"{name}: {len(study.trials)} trials, the best"
    )
    for trial in sorted(complete, key=lambda trial: -(trial.value or 0))[:10]:
        table.add_row(
            str(trial.number), f"{trial.value:.4f}", *(f"{trial.params[key]}" for key in search.space)
        )
    Console().print(table)
    path = EXPERIMENTS / "tuned" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    header = (
        f"Found by scripts/tune.py: val accuracy {study.best_value:.4f}, trial {study.best_trial.number}."
    )
    write_whole(path, experiment(search, study.best_params, header).encode())
    print(f"To train it: python train.py experiment=tuned/{name}")


def main() -> int:
    """Tune."""
    chosen = arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    return exit_status(lambda: tune(chosen))


if __name__ == "__main__":
    sys.exit(main())
