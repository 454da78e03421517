"""Train one network, or sweep over many: python train.py model=cnn_c optim=sgd (keys: conf/config.yaml)."""

import fmnist_lit.program  # noqa: F401 (first: see there)

import sys

import hydra
from omegaconf import DictConfig

from fmnist_lit.app import command_line, run_job


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def train(cfg: DictConfig) -> float | None:
    """Run one composed config."""
    return run_job(cfg)


if __name__ == "__main__":
    sys.exit(command_line(train))
