"""Wrong command lines made from the config itself: each gets one message that names the fault."""

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from fmnist_lit.build import TARGETS
from fmnist_lit.config import RULES, leaves
from fmnist_lit.launch import ASKED, FULL_ERROR, Command
from tests.conftest import ROOT
from tests.test_config import GROUPS

OF_EACH_KIND = 20
# Values that a rule may refuse, as a command line says them.
VALUES = {
    "-1": -1,
    "1e400": float("inf"),
    "nonsense": "nonsense",
    "[-1]": [-1],
    "true": True,
    "0.5": 0.5,
    "''": "",
}
MODELS = ("model=mlp4 patch=shared patch.size=7", "model=cnn_c", "model=residual", "model=block_cnn")

Fault = tuple[str, list[str]]  # a command line, and what the message must name


def misspelt(name: str, draw: Random) -> str:
    """Swap two neighbouring letters, as fingers do."""
    at = draw.choice([i for i in range(len(name) - 1) if name[i] != name[i + 1]])
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


def keys(composed: Any) -> list[tuple[str, str]]:
    """List the keys of some configs, each with the overrides that give such a config."""
    found = {}
    for overrides in MODELS:
        for key, _ in leaves(composed(*overrides.split())):
            if key != "output_dir" and not key.startswith("model.patch."):  # the test sets that itself
                found.setdefault(key, overrides)
    return sorted(found.items())


def wrong_keys(composed: Any, draw: Random) -> list[Fault]:
    faults = []
    for key, overrides in keys(composed):
        group, _, name = key.rpartition(".")
        wrong = misspelt(name, draw)
        if len(name) > 3 and not name.startswith("_") and f"{group}.{wrong}" not in RULES:
            faults.append(
                (f"{overrides} {group}{'.' if group else ''}{wrong}=1", [wrong, f"Did you mean {name}?"])
            )
    return faults


def added_keys(composed: Any, draw: Random) -> list[Fault]:
    return [
        (line.replace(line.split()[-1], "+" + line.split()[-1]), parts)
        for line, parts in wrong_keys(composed, draw)
    ]


def wrong_values(composed: Any, draw: Random) -> list[Fault]:
    faults = []
    for key, overrides in keys(composed):
        refused = [text for text, value in VALUES.items() if key in RULES and not RULES[key].holds(value)]
        if refused and not key.endswith("_target_"):
            faults.append((f"{overrides} {key}={draw.choice(refused)}", [f"{key}=", RULES[key].words]))
    return faults


def wrong_options(composed: Any, draw: Random) -> list[Fault]:
    options = [(group, option) for group in sorted(GROUPS) for option in GROUPS[group] if len(option) > 4]
    return [
        (f"{group}={misspelt(option, draw)}", [f"no such {group}", "Choices: "]) for group, option in options
    ]


def wrong_groups(composed: Any, draw: Random) -> list[Fault]:
    return [(f"{misspelt(group, draw)}=none", [f"Did you mean {group}?"]) for group in sorted(GROUPS)]


def wrong_targets(composed: Any, draw: Random) -> list[Fault]:
    faults = []
    for key, overrides in keys(composed):
        target = draw.choice(TARGETS)
        if key.endswith("_target_"):
            faults.append((f"{overrides} {key}={misspelt(target, draw)}", [key, f"Did you mean {target}?"]))
    return faults


def missing_keys(composed: Any, draw: Random) -> list[Fault]:
    chosen_by_option = ("model.", "schedule.", "logger.", "patch.", "optim.", "data.images.", "output_dir")
    there = [key for key, value in leaves(composed()) if value is not None]  # Hydra deletes no null
    return [(f"~{key}", [key, "missing"]) for key in there if not key.startswith(chosen_by_option)]


KINDS = (wrong_keys, added_keys, wrong_values, wrong_options, wrong_groups, wrong_targets, missing_keys)


def answer_in_process(arguments: list[str]) -> tuple[int | str | None, str, str]:
    """Run train.py's command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        for name in (FULL_ERROR, ASKED):
            patch.setenv(name, "0")  # and what the command sets is undone
        for name in ("sweep", "name", "run", "status"):
            patch.setattr(Command, name, getattr(Command, name))
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            status: int | str | None = None
        except SystemExit as left:
            status = left.code
        finally:
            GlobalHydra.instance().clear()
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_wrong_overrides_get_clear_messages(
    kind: Callable[[Any, Random], list[Fault]], composed: Any, tmp_path: Path
) -> None:
    draw = Random(0)
    faults = kind(composed, draw)
    chosen = draw.sample(faults, min(OF_EACH_KIND, len(faults)))
    assert len(chosen) >= 9
    for line, parts in chosen:
        status, said, message = answer_in_process([*line.split(), f"output_dir={tmp_path}"])
        assert (status, said) == (2, ""), line
        assert message.startswith("error: "), (line, message)
        assert len(message.splitlines()) == 1, (line, message)
        for part in parts:
            assert part in message, (line, message)
    assert not list(tmp_path.iterdir()), "nothing may be left behind"
