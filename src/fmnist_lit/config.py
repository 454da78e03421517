"""Checks a composed config before anything is built: every value by itself, then what cannot work together.

Nothing heavy is imported here, so that a mistake is answered at once.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from os.path import expanduser
from pathlib import Path
from re import fullmatch
from typing import Any, NamedTuple

import yaml
from hydra.conf import HydraConf
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from fmnist_lit.build import TARGETS
from fmnist_lit.errors import UsageError, UserError, choices, printable

PATCH_SIZES = (2, 4, 7, 14)
SCHEMES = ("default", "normal", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal")
MONITORS = ("val_accuracy", "val_loss")
LARGEST = 100_000  # bytes of a run's config.yaml; it has three thousand
ORIGIN = "origin"  # the key of a run's config.yaml under which choices and command stand
DEEPEST = 20  # mappings and lists inside one another; it has four
# Keys that say where and how fast, not what: they tell no two configurations apart.
INCIDENTAL = (
    "name",
    "output_dir",
    "threads",
    "data.images.folder",
    "data.images.source",
    "data.eval_batch_size",
    "trainer._target_",
    "trainer.accelerator",
    "callbacks.save_every_s",
)

# Paths that are meant from the folder of the command line, wherever the run is read later.
PATHS = ("output_dir", "data.images.folder", "data.images.source")


class Rule(NamedTuple):
    """What a value may be: a test, and the same in words."""

    holds: Callable[[Any], bool]
    words: str


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # a whole number may be larger than any other


def integer(least: int, step: int = 1, most: int = 2**31) -> Rule:
    """A whole number from ``least`` to ``most``."""
    words = f"a whole number, {least} or more" + (f", a multiple of {step}" if step > 1 else "")
    words += f", {most} at most" if most != 2**31 else ""
    return Rule(lambda v: type(v) is int and least <= v <= most and v % step == 0, words)


def number(
    low: float, high: float = float("inf"), low_included: bool = True, high_included: bool = False
) -> Rule:
    """A number between two bounds, each of which may be included."""
    words = f"a number, {low:g} or more" if low_included else f"a number, more than {low:g}"
    if high < float("inf"):
        words += f", {high:g} at most" if high_included else f" and less than {high:g}"

    def holds(v: Any) -> bool:
        above = is_number(v) and (v >= low if low_included else v > low)
        return above and (v <= high if high_included else v < high)

    return Rule(holds, words)


def one_of(*known: Any) -> Rule:
    """One of some values."""
    return Rule(lambda v: type(v) in map(type, known) and v in known, f"one of {', '.join(map(str, known))}")


def optional(rule: Rule) -> Rule:
    """Null, or what ``rule`` says."""
    return Rule(lambda v: v is None or rule.holds(v), f"{rule.words}; or null")


def list_of(rule: Rule, length: int | None = None) -> Rule:
    """A list, each element of which is what ``rule`` says."""
    words = f"a list of {length} elements" if length else "a list"
    return Rule(
        lambda v: isinstance(v, list) and (length is None or len(v) == length) and all(map(rule.holds, v)),
        f"{words}, each {rule.words}",
    )


BOOLEAN = Rule(lambda v: isinstance(v, bool), "true or false")
TEXT = Rule(lambda v: isinstance(v, str) and "${" not in v, "text, without ${")
NAME = Rule(lambda v: TEXT.holds(v) and v != "", "text, not empty, without ${")
FOLDER = Rule(
    lambda v: isinstance(v, str) and bool(fullmatch(r"\w[\w.-]*", v)) and len(v.encode()) <= 200,
    "letters, digits, dots, - and _, 200 bytes at most",
)
POSITIVE = number(0, low_included=False)
SHARE = number(0, 1)
SEED = integer(0, most=2**32 - 1)  # what NumPy takes


def target(prefix: str) -> Rule:
    """A target of this project below a package or in a module."""
    known = [name for name in TARGETS if name.startswith(prefix)]
    return Rule(lambda v: v in known, f"a target of this project: {', '.join(known)}")


# Every key of every option of conf/. A key that has no row is unknown.
RULES = {
    "name": optional(FOLDER),
    "seed": SEED,
    "threads": optional(integer(1)),
    "label_smoothing": SHARE,
    "weight_averaging": optional(number(0, 1, low_included=False)),
    "output_dir": NAME,
    "data._target_": target("fmnist_lit.data.datamodule."),
    "data.batch_size": integer(1),
    "data.eval_batch_size": integer(1),
    "data.val_fraction": SHARE,
    "data.split_seed": SEED,
    "data.normalization": one_of("standard", "unit", "none"),
    "data.watch_test": BOOLEAN,
    "data.limit": optional(integer(10, step=10)),
    "data.images._target_": one_of(
        "fmnist_lit.data.sources.fashion_mnist", "fmnist_lit.data.synthetic.drawn_garments"
    ),
    "data.images.folder": NAME,
    "data.images.source": optional(NAME),
    "data.images.train": integer(10, step=10, most=100_000),
    "data.images.test": integer(10, step=10, most=100_000),
    "data.images.seed": SEED,
    "augment._target_": target("fmnist_lit.data.augment."),
    "augment.shift": integer(0, most=27),
    "augment.flip": number(0, 1, high_included=True),
    "augment.rotation": number(0, 180, high_included=True),
    "augment.zoom": SHARE,
    "augment.noise": number(0),
    "augment.erasing": number(0, 1, high_included=True),
    "augment.validation": BOOLEAN,
    "patch._target_": target("fmnist_lit.models.patching."),
    "patch.size": Rule(lambda v: v is None or (type(v) is int and v in PATCH_SIZES), "2, 4, 7 or 14"),
    "patch.dim": integer(1),
    "model._target_": target("fmnist_lit.models."),
    "model.hidden": list_of(integer(1)),
    "model.activation": one_of("relu", "leaky_relu", "gelu"),
    "model.negative_slope": number(0),
    "model.dropout": SHARE,
    "model.filters": integer(1),
    "model.depth": integer(1, most=5),
    "model.batch_norm": BOOLEAN,
    "model.bn_momentum": number(0, 1, low_included=False, high_included=True),
    "model.bn_eps": POSITIVE,
    "model.stem": integer(1),
    "model.widths": list_of(integer(1)),
    "model.blocks": list_of(integer(0)),
    "model.head": one_of("softmax", "logits"),
    "init.linear": one_of(*SCHEMES),
    "init.conv": one_of(*SCHEMES),
    "init.std": POSITIVE,
    "optim._target_": target("torch.optim."),
    "optim.lr": POSITIVE,
    "optim.momentum": SHARE,
    "optim.nesterov": BOOLEAN,
    "optim.amsgrad": BOOLEAN,
    "optim.weight_decay": number(0),
    "optim.betas": list_of(SHARE, length=2),
    "optim.eps": POSITIVE,
    "optim.alpha": SHARE,
    "optim.momentum_decay": number(0),
    "schedule._target_": target("fmnist_lit.schedules."),
    "schedule.monitor": one_of(*MONITORS),
    "schedule.factor": number(0, 1, low_included=False),
    "schedule.patience": integer(0),
    "schedule.cooldown": integer(0),
    "schedule.threshold": number(0),
    "schedule.min_lr": number(0),
    "schedule.warmup": number(0, 1, low_included=False),
    "schedule.div_factor": number(1),
    "schedule.final_div_factor": number(1),
    "callbacks.monitor": optional(one_of(*MONITORS)),
    "callbacks.patience": optional(integer(1)),
    "callbacks.min_delta": number(0),
    "callbacks.save_every_s": number(0),
    "logger.tensorboard": Rule(lambda v: v is None, "null, or the keys of logger=tensorboard"),
    "logger.tensorboard._target_": target("lightning.pytorch.loggers."),
    "logger.tensorboard.name": FOLDER,
    "logger.tensorboard.version": Rule(lambda v: v == "" or FOLDER.holds(v), f"empty, or {FOLDER.words}"),
    "logger.tensorboard.default_hp_metric": BOOLEAN,
    "trainer._target_": target("lightning.pytorch.Trainer"),
    "trainer.accelerator": one_of("auto", "cpu", "gpu"),
    "trainer.devices": integer(1),
    "trainer.num_nodes": integer(1),
    "trainer.strategy": one_of("auto", "ddp"),
    "trainer.max_epochs": integer(1),
    "trainer.precision": one_of("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.deterministic": BOOLEAN,
    "trainer.limit_train_batches": optional(integer(1)),
    "trainer.limit_val_batches": optional(integer(1)),
    "trainer.limit_test_batches": optional(integer(1)),
    "debug.loss_within": optional(POSITIVE),
}
# Keys that every config has, whatever is chosen of each group.
FIXED = (
    *(key for key in RULES if "." not in key),
    *(
        key
        for key in RULES
        if key.count(".") == 1 and key.startswith(("data.", "augment.", "init.", "callbacks."))
    ),
    *(key for key in RULES if key.startswith(("trainer.", "debug."))),
    *(f"{group}._target_" for group in ("data.images", "patch", "model", "optim", "schedule")),
    "optim.lr",
)


def origin(hydra: DictConfig | HydraConf) -> tuple[dict[str, str], str]:
    """Return the option chosen of each group, and the command, from Hydra's own node of a config."""
    options = {str(group): option for group, option in hydra.runtime.choices.items() if "/" not in str(group)}
    return options, shlex.join(["python", "train.py", *hydra.overrides.task])


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List all values of nested mappings with their dotted keys. A list is a value."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the config as plain containers, all resolved, paths absolute, without Hydra's own node."""
    bare = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return with_absolute_paths({str(key): value for key, value in plain.items()})


def with_absolute_paths(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings with the values of PATHS made absolute, ``~`` expanded."""

    def absolute(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return with_absolute_paths(value, f"{key}.")
        is_path = key in PATHS and isinstance(value, str) and value
        return to_absolute_path(expanduser(value)) if is_path else value

    return {key: absolute(prefix + key, value) for key, value in node.items()}


def read_config(run: Path) -> dict[str, Any]:
    """Return the config that a run directory holds, as data: nothing in it is resolved, built or called.

    Raises:
        UserError: there is none, or it is not what ``train.py`` writes; the message says why.
    """
    return {key: value for key, value in read_all(run).items() if key != ORIGIN}


def read_origin(run: Path) -> tuple[dict[str, str], str]:
    """Return the option chosen of each group, and the command, as a run directory holds them.

    Raises:
        UserError: they cannot be read.
    """
    kept = read_all(run).get(ORIGIN, {"choices": {}, "command": "python train.py"})  # older runs have none
    texts = isinstance(kept, dict) and isinstance(kept.get("choices"), dict)
    if not texts or not all(
        isinstance(text, str) for text in (kept.get("command"), *kept["choices"].values())
    ):
        raise UserError(f"{run / 'config.yaml'}: {ORIGIN} must hold choices and a command.")
    return kept["choices"], kept["command"]


def read_all(run: Path) -> dict[str, Any]:
    """Return everything that a run's config.yaml holds.

    Raises:
        UserError: it cannot be read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is no run directory: it has no config.yaml.")
    try:
        return parse(path)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def parse(path: Path) -> dict[str, Any]:
    """Read a config of plain values.

    Raises:
        ValueError: it holds something else.
    """
    config = plain_yaml(path)
    if "${" in json.dumps(config):
        raise ValueError("it holds an interpolation, ${...}; a run may depend on nothing outside it.")
    if not isinstance(config, dict):
        raise ValueError("it is no mapping of keys to values.")
    return config


def plain_yaml(path: Path) -> Any:
    """Read a YAML file as numbers, texts, lists and mappings.

    Raises:
        ValueError, TypeError, YAMLError: it holds something else.
    """
    with path.open("rb") as file:
        text = file.read(LARGEST + 1).decode()
    if len(text) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST:,} bytes.")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError(
                f"it holds an alias or more than {DEEPEST} levels, which may expand to gigabytes."
            )
    return json.loads(json.dumps(yaml.safe_load(text), allow_nan=False))  # refuses what is none of these


def check(config: Mapping[str, Any]) -> None:
    """Check a resolved config.

    Raises:
        UsageError: the first value or combination that cannot work, and what can.
    """
    values = dict(leaves(config))
    for key, value in values.items():
        check_value(key.removeprefix("model.") if key.startswith("model.patch.") else key, value)
    for key in FIXED:
        if key not in values:
            raise UsageError(f"{key}: this key is missing; every run needs it.")
    for combination in (
        check_overfit,
        check_model,
        check_patch,
        check_validation,
        check_optimizer,
        check_precision,
        check_devices,
    ):
        combination(config)


def check_value(key: str, value: Any) -> None:
    """Check one value by its rule."""
    if key not in RULES:
        raise UsageError(f"{printable(key)}: no such key. {choices(key.rpartition('.')[2], siblings(key))}")
    if key.endswith("_target_") and value not in TARGETS:
        raise UsageError(
            f"{key}={printable(value)}: not a target of this project. {choices(str(value), TARGETS)}"
        )
    if not RULES[key].holds(value):
        raise UsageError(f"{key}={printable(value)}: it must be {RULES[key].words}.")


def siblings(key: str) -> list[str]:
    """Return the known keys of the same group, all groups if there is no such group."""
    group = key.rpartition(".")[0]
    known = [name for name in RULES if name.rpartition(".")[0] == group and not name.endswith("_target_")]
    return (
        [name.rpartition(".")[2] for name in known]
        if known and group
        else sorted({name.partition(".")[0] for name in RULES})
    )


def check_overfit(config: Mapping[str, Any]) -> None:
    """The loss of a smoothed label has another floor than the one it is held against."""
    if config["debug"]["loss_within"] is not None and config["label_smoothing"]:
        raise UsageError("debug.loss_within (debug=overfit) does not work with label_smoothing above 0.")


def check_model(config: Mapping[str, Any]) -> None:
    """Every stage of a residual network has a width and a number of blocks."""
    widths, blocks = (config["model"].get(key, []) for key in ("widths", "blocks"))
    if len(widths) != len(blocks) or len(widths) > 4:
        raise UsageError(
            f"model.widths={widths} and model.blocks={blocks} must be of the same length, 4 at most."
        )


def check_patch(config: Mapping[str, Any]) -> None:
    """A patching mode needs an MLP, and a patch size needs a mode."""
    mode = config["patch"]["_target_"].rpartition(".")[2].lower()
    modes = "patch=concat, patch=shared or patch=embed"
    if mode != "whole" and "patch" not in config["model"]:
        raise UsageError(
            f"patch={mode} needs an MLP: a CNN sees whole images. "
            "Choose model=mlp4, model=mlp_custom or model=mlp, or patch=none."
        )
    if mode == "whole" and config["patch"].get("size") is not None:
        raise UsageError(f"patch.size={config['patch'].get('size')} needs a patching mode: {modes}.")
    if mode != "whole" and config["patch"].get("size") is None:
        raise UsageError(f"patch={mode} needs a size: patch.size={'|'.join(map(str, PATCH_SIZES))}.")


def check_validation(config: Mapping[str, Any]) -> None:
    """What looks at validation data needs some, and early stopping a figure to look at."""
    if config["callbacks"]["patience"] is not None and config["callbacks"]["monitor"] is None:
        patience, monitors = config["callbacks"]["patience"], "|".join(MONITORS)
        raise UsageError(f"callbacks.patience={patience} needs callbacks.monitor={monitors}.")
    if config["data"]["val_fraction"] > 0:
        return
    remedy = "Set data.val_fraction above 0, or choose"
    if "monitor" in config["schedule"]:
        raise UsageError(
            f"schedule=plateau looks at validation data, and there is none. {remedy} another schedule."
        )
    if config["callbacks"]["patience"] is not None:
        raise UsageError(
            f"early stopping looks at validation data, and there is none. {remedy} callbacks=default."
        )


def check_optimizer(config: Mapping[str, Any]) -> None:
    """Nesterov's step is made of the momentum, and a schedule's lowest rate lies below the highest."""
    if config["optim"].get("nesterov") and not config["optim"].get("momentum"):
        raise UsageError("optim.nesterov=true needs optim.momentum above 0.")
    lowest, highest = config["schedule"].get("min_lr", 0), config["optim"]["lr"]
    if lowest > highest:
        raise UsageError(f"schedule.min_lr={lowest} lies above optim.lr={highest}.")


def check_precision(config: Mapping[str, Any]) -> None:
    """Under 16-mixed gradients are scaled, so that their norm says nothing."""
    trainer = config["trainer"]
    if trainer["precision"] == "16-mixed" and trainer["gradient_clip_val"] is not None:
        raise UsageError(
            "trainer.gradient_clip_val does not work with trainer.precision=16-mixed. Choose bf16-mixed."
        )


def check_devices(config: Mapping[str, Any]) -> None:
    """Several devices need a strategy, and each an image of every full batch."""
    trainer = config["trainer"]
    ranks, size = trainer["devices"] * trainer["num_nodes"], config["data"]["batch_size"]
    if ranks > 1 and trainer["strategy"] != "ddp":
        raise UsageError(f"{ranks} ranks (trainer.devices times trainer.num_nodes) need trainer=ddp.")
    if ranks > size:
        raise UsageError(f"data.batch_size={size} cannot be shared by {ranks} ranks; each needs an image.")
