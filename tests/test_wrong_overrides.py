"""Wrong command lines made from the config itself: each gets one message that names the fault."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fmnist_lit.config import leaves
from tests.fixtures import answer_in_process
from tests.test_config import GROUPS

OF_EACH_KIND = 9
# What cannot take the place of a value of a kind, as a command line says it.
WRONG = {
    bool: ("0.5", "nonsense", "[-1]", "''", "{a:1}"),
    int: ("-1", "1e400", "nonsense", "[-1]", "true", "0.5", "''"),
    float: ("-1", "1e400", "nonsense", "[-1]", "true", "''"),
    str: ("-1", "true", "0.5", "[-1]", "{a:1}"),
    list: ("-1", "nonsense", "true", "''"),
    type(None): ("true", "{a:1}"),
}
# Keys that may be so, and those that need not be there.
FREE = ("trainer.num_sanity_val_steps", "init_from")
REQUIRED = (
    *("seed", "label_smoothing", "steps_per_execution", "data", "patch", "model", "init"),
    *("optim", "schedule", "trainer", "debug", "augment", "callbacks", "logger", "metrics"),
    *("data.batch_size", "data.eval_batch_size", "data.val_fraction", "data.split_seed", "data.images"),
    *("data.normalization", "init.linear", "init.conv", "init.std", "callbacks.resume.every_s"),
    *("callbacks.best.monitor", "augment.noise.std", "augment.erasing.probability"),
)
MODELS = (
    "model=mlp4 patch=shared patch.size=7",
    "model=cnn_c callbacks=early_stopping schedule=plateau",
    "model=residual optim=adam schedule=onecycle",
    "model=block_cnn augment=cutmix metrics=macro_f1 schedule=step",
)
Fault = tuple[str, list[str]]  # a command line, and what the message must name


def misspelt(name: str, draw: Random) -> str:
    """Swap two neighbouring letters, as fingers do."""
    at = draw.choice([i for i in range(len(name) - 1) if name[i] != name[i + 1]])
    return name[:at] + name[at + 1] + name[at] + name[at + 2 :]


@cache
def keys(composed: Any) -> list[tuple[str, str, Any]]:
    """List the keys of some configs, each with the overrides that give such a config, and its value."""
    found: dict[str, tuple[str, Any]] = {}
    for overrides in MODELS:
        for key, value in leaves(composed(*overrides.split())):
            if key != "output_dir" and not key.startswith("model.patch."):  # the test sets that itself
                found.setdefault(key, (overrides, value))
    return sorted((key, *of) for key, of in found.items())


def wrong_keys(composed: Any, draw: Random) -> list[Fault]:
    faults = []
    for key, overrides, _ in keys(composed):
        group, _, name = key.rpartition(".")
        wrong = misspelt(name, draw)
        takes_any = group.startswith(("logger.", "metrics."))  # their signatures end with **kwargs
        if len(name) > 3 and not name.startswith(("_", "fill")) and not takes_any:  # as near to flip
            line = f"{overrides} {group}{'.' if group else ''}{wrong}=1"
            faults.append((line, [wrong, f"Did you mean {name}?"]))
    return faults


def added_keys(composed: Any, draw: Random) -> list[Fault]:
    return [
        (line.replace(line.split()[-1], "+" + line.split()[-1]), parts)
        for line, parts in wrong_keys(composed, draw)
    ]


def wrong_values(composed: Any, draw: Random) -> list[Fault]:
    faults = []
    for key, overrides, value in keys(composed):
        if not key.endswith("_target_") and key not in FREE:
            faults.append((f"{overrides} {key}={draw.choice(WRONG[type(value)])}", [key, "must be"]))
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
    for key, overrides, value in keys(composed):
        if key.endswith("_target_"):
            module, _, name = value.rpartition(".")
            wrong = misspelt(name, draw)
            faults.append((f"{overrides} {key}={module}.{wrong}", [f"{key}=", f"{module} has no {wrong}"]))
    return faults


def strange_targets(composed: Any, draw: Random) -> list[Fault]:
    """Of another role, somewhere else, or nothing that could be built."""
    strange = (
        "os.system",
        "builtins.eval",
        "torch",
        "no.such.thing",
        "''",
        "3",
        "null",
        "fmnist_lit.run.run",
    )
    return [
        (f"{overrides} {key}={draw.choice(strange)}", [key])
        for key, overrides, _ in keys(composed)
        if key.endswith("_target_")
    ]


def missing_keys(composed: Any, draw: Random) -> list[Fault]:
    return [(f"~{key}", [key, "missing"]) for key in REQUIRED]


KINDS = (
    *(wrong_keys, added_keys, wrong_values, wrong_options, wrong_groups, wrong_targets, strange_targets),
    missing_keys,
)


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
        assert (status, said) == (2, ""), (line, message)
        assert message.startswith("error: "), (line, message)
        assert len(message.splitlines()) == 1, (line, message)
        for part in parts:
            assert part in message, (line, message)
    assert not list(tmp_path.iterdir()), "nothing may be left behind"
