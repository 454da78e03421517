"""Composing and running small configs in process, on drawn images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from fmnist_lit import launch  # noqa: F401 (registers the resolvers that conf/ uses)
from fmnist_lit.config import check, resolved
from fmnist_lit.run import run

ROOT = Path(__file__).parent.parent
# Seconds, not minutes; one thread, because two test runs may share two cores.
SMALL = (
    "data=synthetic",
    "data.images.train=200",
    "data.images.test=100",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "threads=1",
    "logger=none",
)

Config = dict[str, Any]


@pytest.fixture(scope="session")
def composed() -> Callable[..., Config]:
    """Compose a config from overrides, as the command line would."""

    def compose_config(*overrides: str) -> Config:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return resolved(compose("config", list(overrides)))

    return compose_config


@pytest.fixture(scope="session")
def trained(composed: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Train a small config and return its run directory and metrics."""

    def train(*overrides: str, directory: Path | None = None) -> tuple[Path, Config]:
        config = composed(*SMALL, *overrides)
        check(config)
        directory = directory or tmp_path_factory.mktemp("run")
        metrics = run(config, directory, {"model": "small"}, " ".join(["python train.py", *overrides]))
        return directory, metrics

    return train
