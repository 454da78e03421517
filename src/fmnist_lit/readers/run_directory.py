"""Reads a finished run: its config, its model with the trained weights, its images. No training path here."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmnist_lit.build import TARGET, TRUSTED, build, check_node, checked, trainer_arguments
from fmnist_lit.config import Config, check_whole, chosen_by, foreign_packages, read_config, require_trusted
from fmnist_lit.data.datamodule import DataModule
from fmnist_lit.data.dataset import CLASSES, PIXEL_MEAN, PIXEL_STD, Images
from fmnist_lit.data.sources import Unavailable, recorded, stored
from fmnist_lit.errors import UsageError, UserError, printable
from fmnist_lit.models.speedups import prepare
from fmnist_lit.readers.old_configs import modern_config
from fmnist_lit.run_files import read_metrics, run_of
from fmnist_lit.weights import load_checkpoint, weights_of

LARGEST = 2**32  # bytes of a checkpoint
MOST_WEIGHTS = 2**28  # of a model that is built for a config from elsewhere; VGG11 has a tenth
# Whose classes are known, whatever else a run says.
OF_FASHION_MNIST = ("fmnist_lit.data.sources.fashion_mnist", "fmnist_lit.data.synthetic.drawn_garments")
NODES = ("model", "data", "optim")


def checked_config(run: Path, trust: Sequence[str] | None) -> dict[str, Any]:
    """Read a run's config in today's words; what is built of it is what it may be on the command line.

    Args:
        trust: as RunDirectory takes it.

    Raises:
        UserError: the folder holds no run, or one with wrong values.
    """
    config, path = read_config(run), run / "config.yaml"
    missing = [group for group in (*NODES, "trainer") if not isinstance(config.get(group), dict)]
    if missing:
        raise UserError(f"{path} is no config of a run: it has no {', '.join(missing)}.")
    trusted = (*TRUSTED, *(trust or ()))
    try:
        config = modern_config(config)
        check_whole({key: value for key, value in config.items() if key in Config.model_fields})
        checked(trainer_arguments(), config["trainer"], "trainer.")
        if trust is not None:
            require_trusted({group: config[group] for group in NODES}, TRUSTED, trust)
        for group in NODES:
            if trust is None and foreign_packages({group: config[group]}, TRUSTED):
                continue
            check_node(config[group], group, trusted)
            if group == "optim":  # some refuse values that their signatures allow
                build(config["optim"], "optim", [nn.Parameter(torch.zeros(1))], trusted=trusted)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return config


class RunDirectory:
    """One run, read from its directory alone, wherever that was moved to.

    Args:
        data: where Fashion-MNIST lies, if not where the run's config says.
        trust: further packages from which the run's classes may come; None: nothing is going to be built.

    Raises:
        UserError: the folder holds no run.
    """

    def __init__(self, path: Path | str, data: Path | None = None, trust: Sequence[str] | None = ()) -> None:
        path = Path(path)
        self.path, self.data, self.trusted = path, data, (*TRUSTED, *(trust or ()))
        if not path.is_dir():
            near = run_of(path)
            hint = "" if near == path else f" Did you mean {near}?"
            raise UserError(f"{path}: no such folder.{hint}")
        if not (path / "config.yaml").is_file():
            below = sorted(config.parent for config in path.glob("*/config.yaml"))
            hint = f" Did you mean {below[-1]}?" if below else ""
            raise UserError(f"{path} is no run directory: it has no config.yaml.{hint}")
        self.config = checked_config(path, trust)

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
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is larger than {LARGEST:,} bytes.")
        kept = load_checkpoint(path)
        weights = weights_of(kept)
        try:
            classes = len(kept.get("classes") or CLASSES)  # of earlier versions they were ten
            with torch.device("meta"):  # what a config asks for may not fit into memory
                wanted = self.untrained_model(classes).state_dict()
            if sum(weight.numel() for weight in wanted.values()) > MOST_WEIGHTS:
                raise ValueError("too many weights")
            model = self.untrained_model(classes)
            model.load_state_dict(weights)
            model = prepare(model).eval()  # as for training: with 32-true the same metrics to the bit
            with torch.inference_mode():
                output = model(torch.zeros(2, 1, 28, 28))
        except UserError as error:
            raise UserError(f"{self.path / 'config.yaml'}: {error}") from error
        except Exception as error:  # whatever a layer raises on values that were chosen for it
            raise UserError(f"{path} does not fit the model of {self.path / 'config.yaml'}.") from error
        require_numbers(output, path)
        return model

    def which(self, checkpoint: str) -> str:
        """Say which checkpoint one is: "best" is the last one too, where nothing chose a better one."""
        return checkpoint if chosen_by(self.config) else "last"

    def untrained_model(self, classes: int) -> nn.Module:
        """Build the model."""
        model: nn.Module = build(self.config["model"], "model", trusted=self.trusted, classes=classes)
        return model

    def classes(self) -> tuple[Sequence[str], tuple[float, float]]:
        """Return the names of the classes, and mean and deviation of the pixels; read no image if possible.

        Raises:
            UserError: what says it is damaged, or not there.
        """
        if self.config["data"]["images"][TARGET] in OF_FASHION_MNIST:
            return CLASSES, (PIXEL_MEAN, PIXEL_STD)
        known = read_metrics(self.path) if (self.path / "metrics.json").exists() else {}
        if "classes" in known and "statistics" in known:
            mean, deviation = known["statistics"]
            return known["classes"], (mean, deviation)
        images = self.data_set()
        return images.classes, images.statistics

    def data_module(self) -> DataModule:
        """Return the images, split as the run did; nothing is fetched.

        Raises:
            UserError: they cannot be had.
        """
        node = {key: value for key, value in self.config["data"].items() if key != "images"}
        data: DataModule = build(node, "data", trusted=self.trusted, images=self.data_set())
        data.setup()
        return data

    def data_set(self) -> Images:
        """Return the images that the run was made with.

        Raises:
            UserError: they are not where they were, or not in the folder that was named.
        """
        node = dict(self.config["data"]["images"])
        if "folder" not in node:
            if self.data is not None:
                raise UsageError(f"--data {self.data}: the images of {self.path} are drawn, not read.")
            drawn: Images = build(node, "data.images", trusted=self.trusted)
            return drawn
        folder = self.data or recorded(node["folder"])
        try:
            if node[TARGET] == OF_FASHION_MNIST[0]:
                return stored(folder)
            node["folder"] = str(folder)
            read: Images = build(node, "data.images", trusted=self.trusted, fetch=False)
            return read
        except (Unavailable, UserError) as error:
            reason = str(error).removesuffix(".")
            if self.data is not None:
                raise UsageError(f"--data {folder}: {reason}.") from error
            how = f" To get them: python scripts/data.py {shlex.quote(str(folder))}"
            raise UserError(
                f"the images of {self.path} were expected in {folder}: {reason}. If they are elsewhere, say "
                f"--data FOLDER.{how if isinstance(error, Unavailable) else ''}"
            ) from error


def require_numbers(output: torch.Tensor, where: Path, classes: int = 2) -> torch.Tensor:
    """Return a network's output, (n, classes), if it is finite numbers for that many classes or more.

    Raises:
        UserError: it is not.
    """
    if output.ndim != 2 or output.shape[1] < classes or not output.isfinite().all():
        raise UserError(f"{where}: the network answers with no numbers for {classes} classes.")
    return output


def gives_probabilities(model: nn.Module) -> bool:
    """Whether a network answers with probabilities, as after a softmax, and not with logits.

    It is asked, so that it does not matter how it is made: whatever noise it sees, its numbers add up to 1.
    """
    noise = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(noise)
    return bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones(16), atol=1e-4)


def named_outputs(classes: Sequence[str], outputs: int) -> list[str]:
    """Return a name to print for each output; a network may have more of them than there are classes."""
    named = [printable(name, 60) for name in classes]
    return named + [f"output {number}" for number in range(len(named), outputs)]
