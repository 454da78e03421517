"""Finds runs below a folder, says what became of each, and tells them apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmnist_lit.config import INCIDENTAL, leaves
from fmnist_lit.errors import UserError
from fmnist_lit.report.run_directory import RunDirectory
from fmnist_lit.report.run_files import why_unfinished

# Keys that older runs do not have, with the value by which those runs were made.
ADDED = {
    "label_smoothing": 0.0,
    "weight_averaging": None,
    "augment._target_": "fmnist_lit.data.augment.Augmentation",
    "augment.shift": 0,
    "augment.flip": 0.0,
    "augment.rotation": 0.0,
    "augment.zoom": 0.0,
    "augment.noise": 0.0,
    "augment.erasing": 0.0,
    "augment.validation": False,
}
INCIDENTAL_GROUPS = ("logger", "trainer", "debug")


class Run(NamedTuple):
    """What tells a run from others: the options chosen of the config groups, and the value of every key."""

    path: Path
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    metrics: Mapping[str, Any]


def run_directories(folder: Path) -> list[Path]:
    """Return the directories at or below a folder that a run has written into, sorted."""
    signs = ("config.yaml", "failure.json", ".hydra")
    found = {path.parent for sign in signs for path in folder.rglob(sign)}
    return sorted(path for path in found if path.name != ".hydra")


def read_run(path: Path) -> Run:
    """Read what tells a run apart; a run that did not finish has no metrics.

    Raises:
        UserError: the folder holds no run.
    """
    directory = RunDirectory(path)
    metrics = directory.metrics() if why_unfinished(path) is None else {}
    values = {
        key: value
        for key, value in leaves(directory.config)
        if key not in INCIDENTAL and not key.startswith(("logger.", "model.patch."))
    }
    values = ADDED | values
    # Before its end a run is known by the classes that it builds.
    targets = {
        key.partition(".")[0]: value_name(key, value) for key, value in values.items() if is_choice(key)
    }
    choices = metrics.get("choices", targets)
    return Run(path, {k: v for k, v in choices.items() if k not in INCIDENTAL_GROUPS}, values, metrics)


def is_choice(key: str) -> bool:
    """Whether a dotted key says which class a config group chose."""
    return key.count(".") == 1 and key.endswith("._target_")


def value_name(key: str, value: Any) -> str:
    """Return a value as text, a target by its last name."""
    return str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)


def distinguishing(runs: Sequence[Run]) -> list[str]:
    """Return the groups and dotted keys in which runs differ.

    What follows from a difference already named is left out: the keys of an option where two runs chose
    different options, everything where they are different experiments.
    """

    def differ(name: str, given: tuple[str, ...]) -> bool:
        seen: dict[tuple[Any, ...], str] = {}
        for run in runs:
            chosen = tuple(run.choices.get(group) for group in given)
            if seen.setdefault(chosen, value_of(run, name)) != value_of(run, name):
                return True
        return False

    groups = list(dict.fromkeys(group for run in runs for group in run.choices))
    keys = list(dict.fromkeys(key for run in runs for key in run.values))
    first = ["experiment"] if "experiment" in groups and differ("experiment", ()) else []
    named = [group for group in groups if group != "experiment" and differ(group, ("experiment",))]
    return [*first, *named, *(key for key in keys if differ(key, ("experiment", key.partition(".")[0])))]


def varying(runs: Sequence[Run], name: str) -> str:
    """Say how a group or key differs: "optim.lr=0.01..0.1" for numbers, else its values if they are few."""
    values = sorted({value_of(run, name) for run in runs})
    try:
        values = sorted(values, key=float)
        return f"{name}={values[0]}..{values[-1]}"
    except ValueError:
        return f"{name}={','.join(values)}" if len(values) <= 3 else name


def is_trial(directory: Path) -> bool:
    """Whether a run is a trial of a search."""
    return (directory.parent / "study.lock").exists()


def value_of(run: Run, name: str) -> str:
    """Return a run's choice of a group or its value of a dotted key; "-" if it has none."""
    return run.choices[name] if name in run.choices else value_name(name, run.values.get(name, "-"))


def labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by what tells it from the others, by its folder where nothing does."""
    differing = distinguishing(runs)
    names = [" ".join(f"{name}={value_of(run, name)}" for name in differing) for run in runs]
    folders = unique_names([run.path for run in runs])
    return [
        name if names.count(name) == 1 and name else f"{name} ({folder})".lstrip()
        for name, folder in zip(names, folders, strict=True)
    ]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name folders by as few of their last parts as tell them apart."""
    whole = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def require_runs(folder: Path) -> list[Path]:
    """Return the run directories at or below a folder.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder.")
    found = run_directories(folder)
    if not found:
        raise UserError(f"{folder} holds no run.")
    return found
