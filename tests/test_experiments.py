"""Every experiment, and the smallest job of every sweep, trains a batch; a run keeps its whole config."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from fmnist_lit.check import check
from fmnist_lit.config import read_config
from fmnist_lit.run import run
from tests.test_config import CONF, EXPERIMENTS, SWEEPS

# Eight images a step and eight to test; vgg11 takes a second for more.
BATCH = (
    *("data=synthetic", "data.images.train=100", "data.images.test=10", "data.batch_size=8"),
    *("data.eval_batch_size=10", "debug=fast", "trainer=cpu", "threads=1", "logger=none"),
)
# What is compiled has tests of its own; at full width a batch takes half a minute.
NARROW = {"champion/gpu": ("compile=false", "model.depth=10", "model.widen_factor=1")}
EXPERIMENT_NAMES = [f"{name}/{row}" for name, rows in EXPERIMENTS.items() for row in rows.split()]


def train_a_batch(composed: Any, directory: Path, *overrides: str) -> dict[str, Any]:
    """Train, and hold the config that the run keeps against the composed one."""
    config = composed(*overrides, *BATCH)
    check(config)
    metrics = run(config, directory, {}, "")
    assert read_config(directory) == config
    assert metrics["epochs"] == 1
    assert len((directory / "history.csv").read_text().splitlines()) == 2
    return metrics


@pytest.mark.parametrize("name", EXPERIMENT_NAMES)
def test_an_experiment_trains_a_batch(name: str, composed: Any, tmp_path: Path) -> None:
    metrics = train_a_batch(composed, tmp_path, f"experiment={name}", *NARROW.get(name, ()))
    assert 0 <= metrics["test"]["accuracy"] <= 1


def smallest_job(name: str) -> list[str]:
    """Return the overrides of a sweep's job whose values are the smallest, or come first."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        swept = compose("config", [f"sweep={name}"], return_hydra_config=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in swept.items()])
    jobs = product(*(list(override.sweep_string_iterator()) for override in parsed))
    smallest = min(jobs, key=lambda job: [(len(value), value) for value in job])
    return [f"{override.key_or_group}={value}" for override, value in zip(parsed, smallest, strict=True)]


@pytest.mark.parametrize("name", SWEEPS)
def test_the_smallest_job_of_a_sweep_trains_a_batch(name: str, composed: Any, tmp_path: Path) -> None:
    train_a_batch(composed, tmp_path, f"sweep={name}", *smallest_job(name))


def test_what_a_run_keeps_is_plain(composed: Any, tmp_path: Path) -> None:
    train_a_batch(
        composed, tmp_path, "model=mlp4", "augment=mixup", "metrics=macro_f1", "callbacks=early_stopping"
    )
    text = (tmp_path / "config.yaml").read_text()
    assert "${" not in text
    assert yaml.safe_load(text)["callbacks"]["early_stopping"]["monitor"] == "val_accuracy"
