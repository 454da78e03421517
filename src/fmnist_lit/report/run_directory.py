"""Reads a finished run: its config, its model with the trained weights, its images. No training path here."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmnist_lit.build import build
from fmnist_lit.config import RULES, check_value, leaves, read_config
from fmnist_lit.data.images import CLASSES, Images
from fmnist_lit.data.sources import Unavailable, recorded, stored
from fmnist_lit.data.split import limited, stratified_split
from fmnist_lit.errors import UsageError, UserError
from fmnist_lit.models.speedups import prepare
from fmnist_lit.report.run_files import read_history, read_metrics
from fmnist_lit.weights import load_checkpoint

SPLITS = ("train", "val", "test")
CHECKPOINTS = ("best", "last")
LARGEST = 2**32  # bytes of a checkpoint
MOST_WEIGHTS = 2**28  # of a model that is built for a config from elsewhere; VGG11 has a tenth
# What readers need of a config; an older run may lack others.
NEEDED = (
    "seed",
    *(f"data.{key}" for key in ("batch_size", "eval_batch_size", "val_fraction", "split_seed")),
    *("data.normalization", "data.limit", "data.images._target_", "model._target_"),
    *("optim._target_", "optim.lr", "trainer.max_epochs"),
)


def checked_config(run: Path) -> dict[str, Any]:
    """Read a run's config; each value that this version knows is what it may be on the command line.

    Raises:
        UserError: the folder holds no run, or one with wrong values.
    """
    config = read_config(run)
    path = run / "config.yaml"
    missing = {"model", "data"} - set(config)
    if missing:
        raise UserError(f"{path} is no config of a run: it has no {', '.join(sorted(missing))}.")
    values = {
        key.removeprefix("model.") if key.startswith("model.patch.") else key: value
        for key, value in leaves(config)
    }
    try:
        for key, value in values.items():
            if key in RULES or key.startswith(("model.", "data.images.")):  # readers build these alone
                check_value(key, value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    missing = set(NEEDED) - set(values)
    if missing:
        raise UserError(f"{path} is no config of a run: it has no {', '.join(sorted(missing))}.")
    return config


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's weights under the model's own names: the average's, if there is one.

    Raises:
        UserError: it is damaged, huge, or holds more than weights.
    """
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST:,} bytes.")
    weights = {str(key): value for key, value in load_checkpoint(path)["state_dict"].items()}
    prefix = "averaged.module." if "averaged.n_averaged" in weights else "model."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def shapes(weights: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Return the shape of each weight."""
    return {name: weight.shape for name, weight in weights.items()}


class RunDirectory:
    """One run, read from its directory alone, wherever that was moved to.

    Args:
        data: where Fashion-MNIST lies, if not where the run's config says.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, path: Path, data: Path | None = None) -> None:
        self.path, self.data = path, data
        if not path.is_dir():
            raise UserError(f"{path}: no such folder.")
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is no run directory: it has no config.yaml.{self.hint()}")
        self.config = checked_config(path)

    def hint(self) -> str:
        """Name the runs below the folder, if there are any."""
        below = sorted(config.parent for config in self.path.glob("*/config.yaml"))
        return f" Did you mean {below[-1]}?" if below else ""

    def metrics(self) -> dict[str, Any]:
        """Read the run's final figures; see ``read_metrics``."""
        return read_metrics(self.path)

    def history(self) -> list[dict[str, float]]:
        """Read the figures of every epoch; see ``read_history``."""
        return read_history(self.path)

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
        weights = read_weights(path)
        try:
            with torch.device("meta"):  # what a config asks for may not fit into memory
                wanted = shapes(build(self.config["model"]).state_dict())
            if wanted != shapes(weights) or sum(map(torch.Size.numel, wanted.values())) > MOST_WEIGHTS:
                raise ValueError("other or too many weights")
            model: nn.Module = build(self.config["model"])
            model.load_state_dict(weights)
            model = prepare(model).eval()  # as for training: with 32-true the same figures to the bit
            with torch.inference_mode():
                output = model(torch.zeros(2, 1, 28, 28))
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from error
        except Exception as error:  # whatever a layer raises on values that were chosen for it
            raise UserError(f"{path} does not fit the model of {self.path / 'config.yaml'}.") from error
        require_answers(output, path)
        return model

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
        settings, images = self.config["data"], self.data_set()
        if split == "test":
            return images.test, images.test_labels.long()
        train, val = stratified_split(images.train_labels, settings["val_fraction"], settings["split_seed"])
        chosen = val if split == "val" else limited(train, images.train_labels, settings["limit"])
        if not len(chosen):
            raise UserError(f"{self.path} was trained without validation data: choose --split test or train.")
        return images.train[chosen], images.train_labels[chosen].long()

    def data_set(self) -> Images:
        """Return the images that the run was made with; nothing is fetched.

        Raises:
            UserError: they are not where they were, or not in the folder that was named.
        """
        node = self.config["data"]["images"]
        if "folder" not in node:
            if self.data is not None:
                raise UsageError(f"--data {self.data}: the images of {self.path} are drawn, not read.")
            drawn: Images = build(node)
            return drawn
        folder = self.data or recorded(node["folder"])
        try:
            return stored(folder)
        except Unavailable as error:
            if self.data is not None:
                raise UsageError(f"--data {folder}: {error}.") from error
            raise UserError(
                f"the images of {self.path} were expected in {folder}: {error}. If they are elsewhere, say "
                "--data FOLDER. To get them: python -m fmnist_lit.data.sources " + shlex.quote(str(folder))
            ) from error


def require_answers(output: torch.Tensor, where: Path) -> torch.Tensor:
    """Return a network's output if it is finite numbers for ten classes.

    Raises:
        UserError: it is not.
    """
    if output.shape[1:] != (len(CLASSES),) or not output.isfinite().all():
        raise UserError(f"{where}: the network answers with no numbers for {len(CLASSES)} classes.")
    return output
