"""What a composed config is: its keys as a whole, read from a run directory, flat, and compared."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from os.path import expanduser
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra.conf import HydraConf
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError, create_model

from fmnist_lit.build import RULES, TARGET, checked, is_inside
from fmnist_lit.constraints import Count, FolderName, OpenShare, Seed, Share, Text
from fmnist_lit.errors import UsageError, UserError

CONF = Path(__file__).parents[2] / "conf"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, several times faster, where it was built
LARGEST = 100_000  # bytes of a run's config.yaml; it has three thousand
SAID = 5  # of the keys in which two configs differ
DEEPEST = 20  # mappings and lists inside one another; it has four
# Keys that say where and how fast, not what: they tell no two configurations apart.
INCIDENTAL = (
    "name",
    "output_dir",
    "threads",
    "steps_per_execution",
    "compile",
    "data.images.folder",
    "data.images.source",
    "data.eval_batch_size",
    "trainer.accelerator",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "callbacks.resume.every_s",
    "callbacks.resume.every_n_epochs",
)
# What a resume may change: it trains longer, on other devices, with other settings of speed.
MAY_CHANGE = (
    "trainer.max_epochs",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accelerator",
    "threads",
    "data.eval_batch_size",
    "data.images.folder",
    "callbacks.resume.every_s",
    "callbacks.resume.every_n_epochs",
)
# Paths that are meant from the folder of the command line, wherever the run is read later.
PATHS = ("output_dir", "init_from", "data.images.folder", "data.images.source")
# Lightning's other names of precisions; all that asks for one knows it by the first.
PRECISIONS = {"16": "16-mixed", "32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}
# Arguments of an earlier augmentation, and what changes nothing.
OLD_AFFINE = {"shift": 0, "flip": 0.0, "rotation": 0.0, "zoom": 0.0}
# Keys of earlier versions and what they are called now; None: gone.
RENAMED_KEYS: dict[str, str | None] = {
    "weight_averaging": "ema_decay",
    "data.limit": "data.train_subset",
    "data.watch_test": "data.log_test_every_epoch",
    "augment._target_": None,
    **{f"augment.{name}": f"augment.affine.{name}" for name in OLD_AFFINE},
    "augment.noise": "augment.noise.std",
    "augment.erasing": "augment.erasing.probability",
    "augment.validation": "data.augment_validation",
    "callbacks.monitor": "callbacks.best.monitor",
    "callbacks.patience": "callbacks.early_stopping.patience",
    "callbacks.min_delta": "callbacks.early_stopping.min_delta",
    "callbacks.save_every_s": "callbacks.resume.every_s",
    "trainer._target_": None,
    "model.stem_blocks": None,
}
ORIGIN = "origin"  # the key of a run's config.yaml under which choices and command stand
Group = dict[str, Any]


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
    compile: bool
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


class Origin(BaseModel):
    """What a run was composed from; older runs do not say."""

    model_config = RULES

    choices: dict[str, str] = {}
    command: str = "python train.py"


def origin(hydra: DictConfig | HydraConf) -> tuple[dict[str, str], str]:
    """Return the option chosen of each group, and the command, from Hydra's own node of a config."""
    options = {str(group): option for group, option in hydra.runtime.choices.items() if "/" not in str(group)}
    further = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    where = [word for folder in further for word in ("--config-dir", folder)]
    return options, shlex.join(["python", "train.py", *where, *hydra.overrides.task])


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
    plain: Any = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
    flags = plain["trainer"]
    if isinstance(flags, dict) and str(flags.get("precision")) in PRECISIONS:
        flags["precision"] = PRECISIONS[str(flags["precision"])]
    return with_absolute_paths(plain)


def with_absolute_paths(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings with the values of PATHS made absolute, ``~`` expanded."""
    absolute = dict(node)
    for key, value in node.items():
        if isinstance(value, Mapping):
            absolute[key] = with_absolute_paths(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" in PATHS and value and isinstance(value, str):
            absolute[key] = to_absolute_path(expanduser(value))
    return absolute


def read_config(run: Path) -> dict[str, Any]:
    """Return the config that a run directory holds, as data: nothing in it is resolved, built or called.

    Raises:
        UserError: there is none, or it is not what ``train.py`` writes; the message says why.
    """
    return {key: value for key, value in read_all(run).items() if key != ORIGIN}


def foreign_packages(config: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Return the packages, other than those known, that a run's classes come from."""
    targets = [str(value) for key, value in leaves(config) if key.endswith(f".{TARGET}")]
    named = [target.split(".") for target in targets if "." in target and not is_inside(target, known)]
    return sorted({name[0] for name in named if all(map(str.isidentifier, name))})


def require_trusted(config: Mapping[str, Any], known: Sequence[str], trust: Sequence[str]) -> None:
    """Refuse a run whose classes come from several packages, of which not all are trusted by name.

    Raises:
        UsageError: the message names all at once; of a single one, the refusal of its class does.
    """
    packages = foreign_packages(config, (*known, *trust))
    if packages and (trust or len(packages) > 1):
        needed = ",".join(dict.fromkeys([*trust, *packages]))
        raise UsageError(
            f"its classes are from {', '.join(packages)}, which are built only where you trust them: "
            f"trust={needed} after resume=RUN, --trust {needed} for a script"
        )


def read_origin(run: Path) -> tuple[dict[str, str], str]:
    """Return the option chosen of each group, and the command, as a run directory holds them.

    Raises:
        UserError: they cannot be read.
    """
    try:
        kept = Origin.model_validate(read_all(run).get(ORIGIN, {}))
    except ValidationError as error:
        raise UserError(f"{run / 'config.yaml'}: {ORIGIN} must hold choices and a command.") from error
    return kept.choices, kept.command


def read_all(run: Path) -> dict[str, Any]:
    """Return everything that a run's config.yaml holds.

    Raises:
        UserError: it cannot be read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run} is no run directory: it has no config.yaml.")
    try:
        config = plain_yaml(path)
        if "${" in json.dumps(config):
            raise ValueError("it holds an interpolation, ${...}; a run may depend on nothing outside it.")
        if not isinstance(config, dict):
            raise ValueError("it is no mapping of keys to values.")
        return config
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


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
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError(
                f"it holds an alias or more than {DEEPEST} levels, which may expand to gigabytes."
            )
    return json.loads(json.dumps(yaml.load(text, LOADER), allow_nan=False))  # refuses what is none of these


def check_whole(values: Mapping[str, Any]) -> None:
    """Check some keys of a run as a whole by themselves.

    Raises:
        UsageError: one cannot be.
    """
    checked(checking_model(tuple(values)), values)


@cache
def checking_model(keys: tuple[str, ...]) -> type[BaseModel]:
    """Return what checks these keys alone; to make it takes longer than to use it."""
    fields: Any = {key: (Config.model_fields[key].annotation, Config.model_fields[key]) for key in keys}
    model: type[BaseModel] = create_model("Config", __config__=RULES, **fields)
    return model


def has_validation(config: Mapping[str, Any]) -> bool:
    """Whether there are validation images."""
    looked_at = config["trainer"].get("limit_val_batches") != 0
    return looked_at and (config["data"].get("val_fraction") != 0 or bool(config["data"].get("folds")))


def chosen_by(config: Mapping[str, Any]) -> str | None:
    """Return the metric that chooses the checkpoint to be tested; None: it is the last one."""
    nodes = {name: node for name, node in config["callbacks"].items() if isinstance(node, Mapping)}
    averaged = any(str(node.get(TARGET)).endswith(".StochasticWeightAveraging") for node in nodes.values())
    monitor = nodes.get("best", {}).get("monitor")
    if averaged or config["trainer"].get("fast_dev_run") or not monitor:
        return None
    return str(monitor) if has_validation(config) or not str(monitor).startswith("val_") else None


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return all keys that say what is computed, not where and how fast."""
    return {key: value for key, value in leaves(config) if key not in INCIDENTAL}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in which keys two flat configs differ."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    said = [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys[:SAID]]
    return said + ([f"and {len(keys) - SAID} more"] if len(keys) > SAID else [])
