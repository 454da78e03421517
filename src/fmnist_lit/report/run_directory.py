"""Reads a finished run: its config, its model with the trained weights, its images. No training path here."""

import csv
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from fmnist_lit.build import build
from fmnist_lit.data.images import Images
from fmnist_lit.data.split import limited, stratified_split
from fmnist_lit.errors import UserError
from fmnist_lit.models.fast import prepare

SPLITS = ("train", "val", "test")
CHECKPOINTS = ("best", "last")
# What every reader needs of metrics.json.
FINAL = ("train", "val", "test", "epochs", "seconds", "parameters", "seed", "commit", "device", "command")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, its name if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def tested_weights(weights: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's weights under the model's own names: the average's, if there is one."""
    prefix = "averaged.module." if "averaged.n_averaged" in weights else "model."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


class RunDirectory:
    """One run, read from its directory alone, wherever that was moved to.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise UserError(f"{path}: no such folder.")
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is no run directory: it has no config.yaml.{self.hint()}")
        try:
            config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"), resolve=True)
        except Exception as error:  # OmegaConf passes on whatever its YAML parser raises
            raise UserError(f"{path / 'config.yaml'} cannot be read: {first_line(error)}") from error
        missing = {"model", "data"} - set(config if isinstance(config, dict) else ())
        if missing:
            raise UserError(
                f"{path / 'config.yaml'} is no config of a run: it has no {', '.join(sorted(missing))}."
            )
        self.config: dict[str, Any] = {str(key): value for key, value in dict(config).items()}  # type: ignore[arg-type]

    def hint(self) -> str:
        """Name the runs below the folder, if there are any."""
        below = sorted(config.parent for config in self.path.glob("*/config.yaml"))
        return f" Did you mean {below[-1]}?" if below else ""

    def metrics(self) -> dict[str, Any]:
        """Read the run's final figures.

        Raises:
            UserError: the run did not finish, or the file is damaged.
        """
        path = self.path / "metrics.json"
        if not path.is_file():
            raise UserError(f"{self.path} has no metrics.json: the run did not finish.")
        try:
            figures = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        missing = [key for key in FINAL if not isinstance(figures, dict) or key not in figures]
        if missing:
            raise UserError(f"{path} is damaged: it has no {', '.join(missing)}.")
        return dict(figures)

    def history(self) -> list[dict[str, float]]:
        """Read the figures of every epoch.

        Raises:
            UserError: there are none, or they are damaged.
        """
        path = self.path / "history.csv"
        if not path.is_file():
            raise UserError(f"{self.path} has no history.csv: no epoch was finished.")
        try:
            with path.open(newline="") as file:
                rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from error
        if not rows:
            raise UserError(f"{path} is empty: no epoch was finished.")
        return rows

    def model(self, checkpoint: str = "best") -> nn.Module:
        """Build the model and load its trained weights; no code in the checkpoint is run.

        Args:
            checkpoint: "best" or "last".

        Raises:
            UserError: there is no such checkpoint, or it is damaged, or it is no checkpoint of this model.
        """
        path = self.path / "checkpoints" / f"{checkpoint}.ckpt"
        if not path.is_file():
            raise UserError(f"{self.path} has no checkpoints/{checkpoint}.ckpt: no epoch was finished.")
        model: nn.Module = build(self.config["model"])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a file that is refused anyway
                weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} was not loaded: it is damaged, or holds more than weights.") from error
        except (RuntimeError, EOFError, KeyError, TypeError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
        try:
            model.load_state_dict(tested_weights(weights))
        except (RuntimeError, AttributeError) as error:
            raise UserError(f"{path} does not fit the model of {self.path / 'config.yaml'}.") from error
        return prepare(model).eval()  # as for training: with 32-true the same figures to the bit

    def gives_probabilities(self) -> bool:
        """Whether the model's output are probabilities already (a softmax head), not logits."""
        return bool(self.config["model"].get("head") == "softmax")

    def is_mlp(self) -> bool:
        """Whether the model is an MLP."""
        return str(self.config["model"]["_target_"]).endswith(".MLP")

    def images(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a split's images, uint8 of (n, 28, 28), and labels, int64 of (n,).

        Raises:
            UserError: the run has no such split, or its images cannot be had.
        """
        settings = self.config["data"]
        images: Images = build(settings["images"])
        if split == "test":
            return images.test, images.test_labels.long()
        train, val = stratified_split(images.train_labels, settings["val_fraction"], settings["split_seed"])
        chosen = val if split == "val" else limited(train, images.train_labels, settings["limit"])
        if not len(chosen):
            raise UserError(f"{self.path} was trained without validation data: choose --split test or train.")
        return images.train[chosen], images.train_labels[chosen].long()
