"""What a composed config is: read, compared, and checked before anything is trained.

Each value is checked by the signature of what it is for (``build.py``). Here stand the keys of a run as a
whole, and what cannot work together.
"""

import inspect
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from hydra.conf import HydraConf
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, create_model

from fmnist_lit.build import (
    RULES,
    TARGET,
    arguments_model,
    build,
    check_node,
    checked,
    is_node,
    locate,
    target_of,
    trainer_arguments,
)
from fmnist_lit.constraints import Count, FolderName, OpenShare, Positive, Seed, Share, Text
from fmnist_lit.errors import UsageError, UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from fmnist_lit.schedules import Schedule

LARGEST = 100_000  # bytes of a run's config.yaml; it has three thousand
DEEPEST = 20  # mappings and lists inside one another; it has four
# Keys that say where and how fast, not what: they tell no two configurations apart.
INCIDENTAL = (
    "name",
    "output_dir",
    "threads",
    "steps_per_execution",
    "data.images.folder",
    "data.images.source",
    "data.eval_batch_size",
    "trainer.accelerator",
    "callbacks.resume.every_s",
)
# Paths that are meant from the folder of the command line, wherever the run is read later.
PATHS = ("output_dir", "init_from", "data.images.folder", "data.images.source")
ORIGIN = "origin"  # the key of a run's config.yaml under which choices and command stand
Group = dict[str, Any]


class Debug(BaseModel):
    """What a run is held against."""

    model_config = RULES

    loss_within: Positive | None


class Config(BaseModel):
    """The keys of a run as a whole; the groups are checked by what they build."""

    model_config = RULES

    name: FolderName | None
    seed: Seed
    threads: Count | None
    output_dir: Text
    label_smoothing: Share
    ema_decay: OpenShare | None
    steps_per_execution: Literal["auto"] | Count
    init_from: Text | None
    freeze: list[Text]
    init: Group
    data: Group
    patch: Group
    model: Group
    optim: Group
    schedule: Group
    trainer: Group
    debug: Group
    augment: Group
    callbacks: Group
    logger: Group
    metrics: Group


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


def check(config: Mapping[str, Any], trusted: Sequence[str] | None = None) -> None:
    """Check a resolved config: every value by itself, then what cannot work together.

    Args:
        trusted: packages from which targets may come; None: any, for their owner wrote them.

    Raises:
        UsageError: the first value or combination that cannot work, and what can.
    """
    checked(Config, config)
    for combination in (check_patch, check_folds, check_validation, check_overfit, check_devices):
        combination(config)
    checked(
        arguments_model(locate("fmnist_lit.models.initialization.initialize"), ("model",)),
        config["init"],
        "init.",
    )
    checked(trainer_arguments(), config["trainer"], "trainer.")
    checked(Debug, config["debug"], "debug.")
    for key, node in nodes(config):
        if not is_node(node):
            raise UsageError(f"{key}.{TARGET}: this key is missing; it names what is built.")
        if key != "schedule":  # the run has to add to it
            check_node(node, key, trusted)
    try_out(config, trusted)


def check_whole(values: Mapping[str, Any]) -> None:
    """Check some keys of a run as a whole by themselves.

    Raises:
        UsageError: one cannot be.
    """
    fields: Any = {
        key: (about.annotation, about) for key, about in Config.model_fields.items() if key in values
    }
    checked(create_model("Config", __config__=RULES, **fields), values)


def nodes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """List the nodes of a config that are built, by their keys; null leaves one out."""
    for group in ("data", "patch", "model", "optim", "schedule"):
        yield group, config[group]
    for group in ("augment", "callbacks", "logger", "metrics"):
        yield from ((f"{group}.{name}", node) for name, node in config[group].items() if node is not None)


def try_out(config: Mapping[str, Any], trusted: Sequence[str] | None) -> None:
    """Build what costs nothing: a model without weights, the optimizer of one weight, and so on.

    Raises:
        UsageError: one of them refuses its arguments.
    """
    import torch

    from fmnist_lit.finetune import freeze

    for group in ("augment", "metrics"):
        for name, node in config[group].items():
            if node is not None:
                build(node, f"{group}.{name}", trusted=trusted, classes=10, num_classes=10)
    with torch.device("meta"):
        freeze(build(config["model"], "model", trusted=trusted, classes=10), config["freeze"])
    optimizer = build(config["optim"], "optim", [torch.nn.Parameter(torch.zeros(1))], trusted=trusted)
    build_schedule(config["schedule"], optimizer, 1000, trusted)
    if trusted is None:  # who only reads a run trains nothing
        from fmnist_lit.trainer import try_trainer

        try_trainer(config)


def build_schedule(
    node: Mapping[str, Any], optimizer: "Optimizer", steps: int, trusted: Sequence[str] | None = None
) -> "Schedule":
    """Build a schedule in Lightning's form, which has ``interval`` and ``monitor`` where a target has none.

    Args:
        steps: of the whole run; ``total_steps`` of a target that takes them and was not told otherwise.

    Raises:
        UsageError: it cannot be.
    """
    from fmnist_lit.schedules import as_lightning, mode_of

    known = inspect.signature(target_of(node, "schedule", trusted)).parameters
    outer = {key: node[key] for key in ("interval", "monitor") if key in node and key not in known}
    inner = {key: value for key, value in node.items() if key not in outer}
    if outer.get("monitor") and "mode" in known and "mode" not in node:
        inner["mode"] = mode_of(outer["monitor"])  # else PyTorch's would take any metric for a loss
    facts = {} if inner.get("epochs") else {"total_steps": steps}
    return as_lightning(build(inner, "schedule", optimizer, trusted=trusted, **facts), **outer)


def check_patch(config: Mapping[str, Any]) -> None:
    """A patching mode needs a model that takes one."""
    mode = str(config["patch"].get(TARGET)).rpartition(".")[2]
    if mode == "NoPatching" and config["patch"].get("size") is not None:
        raise UsageError(
            f"patch.size={config['patch']['size']}: whole images have no patches. "
            "Choose patch=concat, patch=shared or patch=embed (sizes 2, 4, 7 or 14), or leave it out."
        )
    if mode != "NoPatching" and "patch" not in config["model"]:
        raise UsageError(
            f"patch={mode} needs an MLP: a CNN sees whole images. "
            "Choose model=mlp4, model=mlp_custom or model=mlp, or patch=none."
        )


def check_validation(config: Mapping[str, Any]) -> None:
    """What looks at validation data needs some, and nothing looks at test data."""
    folds, fold = config["data"].get("folds"), config["data"].get("fold", 0)
    if isinstance(folds, int) and isinstance(fold, int) and fold >= folds:
        raise UsageError(f"data.fold={fold}: of data.folds={folds} there are 0 to {folds - 1}.")
    watching = {"schedule": config["schedule"]} | {
        f"callbacks.{name}": node for name, node in config["callbacks"].items() if node
    }
    for key, node in watching.items():
        monitor = str(node.get("monitor", ""))
        if monitor.startswith("test"):
            raise UsageError(
                f"{key}.monitor={monitor}: the test set selects nothing. Choose val_accuracy or val_loss."
            )
        if monitor.startswith("val_") and key != "callbacks.best" and not has_validation(config):
            raise UsageError(
                f"{key} looks at {node['monitor']}, and there is no validation data. "
                "Set data.val_fraction above 0, or leave it out."
            )


def has_validation(config: Mapping[str, Any]) -> bool:
    """Whether there are validation images."""
    looked_at = config["trainer"].get("limit_val_batches") != 0
    return looked_at and (config["data"].get("val_fraction") != 0 or bool(config["data"].get("folds")))


def check_folds(config: Mapping[str, Any]) -> None:
    """A fold is one of those that there are."""
    folds, fold = config["data"].get("folds"), config["data"].get("fold", 0)
    if folds is None and fold:
        raise UsageError(f"data.fold={fold}: there are no folds. Set data.folds, or leave it out.")
    if isinstance(folds, int) and isinstance(fold, int) and fold >= folds:
        raise UsageError(f"data.fold={fold}: of data.folds={folds} there are 0 to {folds - 1}.")


def check_overfit(config: Mapping[str, Any]) -> None:
    """The loss of a smoothed label has another floor than the one it is held against."""
    if config["debug"].get("loss_within") is not None and config["label_smoothing"]:
        raise UsageError("debug.loss_within (debug=overfit) does not work with label_smoothing above 0.")


def check_devices(config: Mapping[str, Any]) -> None:
    """Several devices need a strategy, and each an image of every full batch."""
    trainer, size = config["trainer"], config["data"].get("batch_size", 1)
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if not isinstance(devices, int) or not isinstance(nodes, int):
        return
    world = devices * nodes
    if world > 1 and not str(trainer.get("strategy")).startswith("ddp"):
        raise UsageError(f"{world} processes (trainer.devices times trainer.num_nodes) need trainer=ddp.")
    if isinstance(size, int) and world > size:
        raise UsageError(
            f"data.batch_size={size} cannot be shared by {world} processes; each needs an image."
        )
